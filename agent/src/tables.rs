//! The kernel's state that the agent manages, as one value. The desired and the actual state are
//! both [`Tables`]; the difference of the two is what the agent changes.

use std::{collections::BTreeSet, convert::Infallible, fmt, net::IpAddr};

use ipnet::IpNet;
pub use margay_common::route::PrefixKey;
use margay_common::{
    every_map,
    maps::{self, Doubt, Held, types::*},
    verdict::Program,
};

use crate::shared::Shared;

/// The name of the interface by which the host itself reaches the networks.
pub const HOST_INTERFACE: &str = "margay0";
/// The prefix of the names of all endpoints' host-side interfaces.
pub const ENDPOINT_PREFIX: &str = "mgy";

/// The name of an endpoint's host-side interface.
pub fn host_interface(endpoint: &str) -> String {
    format!("{ENDPOINT_PREFIX}{}", endpoint.get(..12).unwrap_or(endpoint))
}

/// An interface that the agent manages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interface {
    /// `margay0`, with its MTU.
    Host {
        /// The MTU.
        mtu: u32,
    },
    /// The host side of an endpoint. The attach creates the interface, not a change of this
    /// entry.
    Endpoint,
}

/// A program at its hook on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The program. Each program has one hook.
    pub program: Program,
    /// Whether the program is of the object that this agent loaded, not of an earlier agent's.
    pub current: bool,
}

/// The XDP program at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct XdpAttachment {
    /// Whether the driver runs the program (native XDP).
    pub native: bool,
    /// Whether the program is of the object that this agent loaded, not of an earlier agent's.
    pub current: bool,
}

/// The host's route to a subnet through `margay0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    /// The subnet's gateway, as next hop: so one neighbour entry serves the whole subnet.
    pub gateway: IpAddr,
    /// The source address of the host's own packets.
    pub source: Option<IpAddr>,
    /// The MTU of the network's containers.
    pub mtu: u32,
}

/// Margay's nftables table, which masquerades.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Firewall {
    /// The subnets whose containers are masqueraded towards the world.
    pub subnets: BTreeSet<IpNet>,
    /// Whether a rule drops forwarded IPv6 packets that neither come from nor go to a network.
    /// The agent adds it where IPv6 forwarding was off before.
    pub drop_forwarded_v6: bool,
}

/// Which way a packet passes `margay0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From a container.
    In,
    /// To a container.
    Out,
}

/// An exception in a chain of iptables that drops what is forwarded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Accept {
    /// Whether it is of IPv4.
    pub v4: bool,
    /// The chain.
    pub chain: String,
    /// The direction.
    pub direction: Direction,
}

/// The chain.
impl fmt::Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain)
    }
}

/// A switch of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SysctlKey {
    /// Switches of a lower stage are set before those of a higher one.
    pub stage: u8,
    /// Its path below /proc/sys.
    pub path: String,
}

/// The path.
impl fmt::Display for SysctlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// What names an entry that is held singly; nothing does in other tables.
macro_rules! singly {
    (Singly $key:ty) => {
        $key
    };
    ($held:ident $key:ty) => {
        Infallible
    };
}

/// How an entry is held.
macro_rules! held {
    (Singly $variant:ident $key:ident) => {
        Held::Singly(Singly::$variant($key))
    };
    ($held:ident $variant:ident $key:ident) => {{
        let _ = $key;
        Held::$held
    }};
}

/// Declares the tables in the order of reference: an entry may refer to
/// entries of earlier tables only.
macro_rules! tables {
    ($(
        #[doc = $doc:literal]
        $field:ident: $variant:ident($key:ty => $value:ty), $words:literal, $doubt:ident,
        held $held:ident, after [$($referent:ident),*];
    )*) => {
        /// Names one table. The order is that of reference.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(non_camel_case_types, reason = "as they are declared")]
        pub enum Table { $(#[doc = $doc] $field,)* }

        impl Table {
            /// The tables whose entries its own refer to.
            pub fn referents(self) -> &'static [Self] {
                match self { $(Self::$field => &[$(Self::$referent),*],)* }
            }
        }

        $($(const _: () = assert!(
            (Table::$referent as usize) < Table::$field as usize,
            concat!(stringify!($field), " is after ", stringify!($referent), ", which does not stand above it")
        );)*)*

        /// What the kernel holds for us, or should.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Tables { $(#[doc = $doc] pub $field: Shared<$key, $value>,)* }

        /// Names one entry. The order is that of the tables.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Key { $(#[doc = $doc] $variant($key),)* }

        /// Names one entry of a table that is held singly. There is none of the other tables,
        /// so a match leaves them out, and the compiler asks for all of these.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Singly<'a> { $(#[doc = $doc] $variant(singly!($held &'a $key)),)* }

        /// One entry.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Entry { $(#[doc = $doc] $variant($key, $value),)* }

        impl Entry {
            /// Whether this is no program of another object at a hook.
            pub fn is_current(&self) -> bool {
                match self {
                    Self::Attachment(_, found) => found.current,
                    Self::Xdp(_, found) => found.current,
                    _ => true,
                }
            }

            /// The entry's name.
            pub fn key(&self) -> Key {
                match self { $(Self::$variant(key, _) => Key::$variant(key.clone()),)* }
            }
        }

        impl Key {
            /// Its table.
            pub fn table(&self) -> Table {
                match self { $(Self::$variant(_) => Table::$field,)* }
            }

            /// Which changes of its table the agent may make while it does not trust the store.
            pub fn doubt(&self) -> Doubt {
                match self { $(Self::$variant(_) => Doubt::$doubt,)* }
            }

            /// Whether the agent keeps it although the desired state does not have it, as its
            /// table declares.
            pub fn held(&self) -> Held<Singly<'_>> {
                match self { $(Self::$variant(key) => held!($held $variant key),)* }
            }
        }

        /// An entry of the kernel in words.
        impl fmt::Display for Key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(key) => {
                        f.write_str($words)?;
                        Told(key).write(f)
                    })*
                }
            }
        }

        impl Tables {
            /// Adds or replaces an entry.
            pub fn put(&mut self, entry: Entry) {
                match entry { $(Entry::$variant(key, value) => { self.$field.insert(key, value); })* }
            }

            /// Removes an entry.
            pub fn remove(&mut self, key: &Key) {
                match key { $(Key::$variant(key) => { self.$field.remove(key); })* }
            }

            /// The entry of that name.
            pub fn get(&self, key: &Key) -> Option<Entry> {
                match key {
                    $(Key::$variant(key) => {
                        self.$field.get(key).map(|value| Entry::$variant(key.clone(), value.clone()))
                    })*
                }
            }

            /// All entries, in the order of the tables.
            pub fn entries(&self) -> impl Iterator<Item = Entry> {
                let all = std::iter::empty();
                $(let all = all.chain(
                    self.$field.iter().map(|(k, v)| Entry::$variant(k.clone(), v.clone())),
                );)*
                all
            }

            /// The entries of `self` that `other` lacks or holds differently,
            /// and the keys of `other` that `self` lacks, each in the order of
            /// the tables.
            pub fn difference(&self, other: &Self) -> (Vec<Entry>, Vec<Key>) {
                let (mut put, mut remove) = (Vec::new(), Vec::new());
                $(
                    for (key, value) in &self.$field {
                        if other.$field.get(key) != Some(value) {
                            put.push(Entry::$variant(key.clone(), value.clone()));
                        }
                    }
                    for key in other.$field.keys() {
                        if !self.$field.contains_key(key) {
                            remove.push(Key::$variant(key.clone()));
                        }
                    }
                )*
                (put, remove)
            }
        }
    };
}

/// Puts the tables of the maps where programs want them: those that they read before the
/// programs, those that open an interface behind them.
macro_rules! with_maps {
    ({ $($first:tt)* } { $($programs:tt)* } { $($last:tt)* }
     $(#[doc = $doc:literal] $name:ident: $kind:ident $types:tt [$entries:expr] {
        $(layout $layout:expr,)? by $writer:ident
        $(, as $other:ident)?
        $(, read $read:ident: $of_read:ident($read_key:ty => $read_value:ty), $read_words:literal, $read_doubt:ident, held $read_held:ident, after $read_after:tt)?
        $(, opens $opens:ident: $of_opens:ident($opens_key:ty => $opens_value:ty), $opens_words:literal, $opens_doubt:ident, held $opens_held:ident, after $opens_after:tt)?
    })*) => {
        tables! {
            $($first)*
            $($(#[doc = $doc] $read: $of_read($read_key => $read_value), $read_words, $read_doubt, held $read_held, after $read_after;)?)*
            $($programs)*
            $($(#[doc = $doc] $opens: $of_opens($opens_key => $opens_value), $opens_words, $opens_doubt, held $opens_held, after $opens_after;)?)*
            $($last)*
        }

        impl Key {
            /// The map of its table, if that is one.
            pub fn map(&self) -> Option<&'static maps::Map> {
                match self {
                    $($(Self::$of_read(_) => Some(&maps::$name),)?)*
                    $($(Self::$of_opens(_) => Some(&maps::$name),)?)*
                    _ => None,
                }
            }
        }

        impl Tables {
            /// How many entries a map's table has, if the map has one.
            pub fn len_of(&self, map: &maps::Map) -> Option<usize> {
                $($(if map.name == maps::$name.name { return Some(self.$read.len()); })?)*
                $($(if map.name == maps::$name.name { return Some(self.$opens.len()); })?)*
                None
            }
        }
    };
}

every_map!(with_maps! {
    {
        /// Interfaces by name.
        interfaces: Interface(String => Interface), "interface", Followed, held Singly, after [];
    }
    {
        /// Programs by the interface that they are attached to.
        attachments: Attachment(String => Attachment), "the program on", Followed, held WithEndpoint, after [interfaces, node, workloads];
    }
    {
        /// XDP programs by interface.
        xdp: Xdp(String => XdpAttachment), "the XDP program on", Followed, held Never, after [node];
        /// The host's routes to our subnets.
        host_routes: HostRoute(IpNet => HostRoute), "the host's route to", Added, held Together, after [interfaces, attachments];
        /// Our nftables table.
        firewall: Firewall(() => Firewall), "masquerading", Added, held Together, after [];
        /// Exceptions in iptables' chains.
        accepts: Accept(Accept => ()), "the exception in iptables' chain", Added, held Together, after [];
        /// Switches of the host that we set.
        sysctls: Sysctl(SysctlKey => String), "the kernel's switch", Added, held Together, after [interfaces, firewall];
    }
});

/// A key behind the words of its table.
struct Told<'a, K>(&'a K);

impl Told<'_, ()> {
    /// The one entry of a table has no name.
    fn write(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Of every other key. The compiler prefers what `Told<()>` has itself.
trait Named {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

impl<K: fmt::Display> Named for Told<'_, K> {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.0)
    }
}
