//! What is compared: each is made of real parts, on two hosts of its own with
//! one cable between them, so that all of them can wait while one is measured.

mod docker;
mod floor;
mod kernel;
mod margay;
mod mesh;
mod names;
pub use names::Names;

use std::{any::Any, net::IpAddr, panic, path::PathBuf};

use margay_tests::{
    container::Namespace,
    lab::{Lab, Plan},
    process::sh,
};

use crate::{
    cable, congestion,
    work::{Place, Servers, Way, Work},
};

/// A way of connecting containers.
#[derive(Clone, Copy)]
pub struct Candidate {
    /// Its name in reports.
    pub name: &'static str,
    /// What it is made of.
    pub what: &'static str,
    /// Which kinds of work it does.
    pub does: Does,
    setup: fn() -> Built,
}

/// Which kinds of work a candidate does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// All, and it is one of the few of the quick form.
    Quick,
    /// All.
    Everything,
    /// Streams across hosts: what super-packets can change.
    Streams,
    /// What programs change: streams, requests, connections and packets.
    Programs,
}

impl Candidate {
    /// Whether it does a kind of work in a place.
    pub fn does(&self, place: Place, work: Work) -> bool {
        match self.does {
            Does::Quick | Does::Everything => true,
            Does::Streams => place == Place::Across && work.is_streams(),
            Does::Programs => {
                matches!(
                    work,
                    Work::Stream | Work::Streams | Work::TcpRequests | Work::Connections | Work::Packets
                )
            }
        }
    }
}

/// The limit that all are compared with.
pub const LIMIT: &str = "host";
/// What is usual within one host.
pub const BRIDGE: &str = "bridge";
/// Ourselves.
pub const MARGAY: &str = "margay";
/// What is usual between hosts without a tunnel: Docker's own bridge.
pub const RULES: &str = "docker bridge + routes";
/// What is usual between hosts with a tunnel.
pub const VXLAN: &str = "bridge + VXLAN";
/// The same as Docker has it.
pub const OVERLAY: &str = "docker overlay";
/// What programs such as ours can hardly be faster than.
pub const FLOOR: &str = "redirects alone";
/// The limit with BIG TCP.
pub const HOST_BIG: &str = "host BIG TCP";
/// Ourselves with BIG TCP.
pub const BIG: &str = "margay BIG TCP";

/// All of them.
pub const ALL: [Candidate; 21] = [
    Candidate {
        name: LIMIT,
        what: "processes of the hosts themselves: the limit",
        does: Does::Quick,
        setup: kernel::host,
    },
    Candidate {
        name: MARGAY,
        what: "Margay, with the defaults that ship",
        does: Does::Quick,
        setup: margay::margay,
    },
    Candidate {
        name: BRIDGE,
        what: "a Linux bridge that holds the uplink, no rules",
        does: Does::Quick,
        setup: kernel::bridge,
    },
    Candidate {
        name: FLOOR,
        what: "programs at the same hooks that do nothing but redirect to one interface: a floor of ours",
        does: Does::Programs,
        setup: floor::redirects,
    },
    Candidate {
        name: "routed veth",
        what: "the kernel routes between veths and the uplink, no rules (Calico without eBPF or policies)",
        does: Does::Everything,
        setup: kernel::routed,
    },
    Candidate {
        name: "routed veth + rules",
        what: "the same with connection tracking and 40 rules of iptables before the one that accepts",
        does: Does::Everything,
        setup: kernel::routed_with_rules,
    },
    Candidate {
        name: VXLAN,
        what: "a bridge on each host, routes between them through a VXLAN device with static entries (flannel)",
        does: Does::Quick,
        setup: kernel::vxlan,
    },
    Candidate {
        name: "macvlan",
        what: "macvlan on the uplink, bridge mode",
        does: Does::Everything,
        setup: kernel::macvlan,
    },
    Candidate {
        name: "docker none",
        what: "containers of Docker's without a network (none), wired by hand to a bridge that holds the uplink",
        does: Does::Everything,
        setup: docker::none,
    },
    Candidate {
        name: RULES,
        what: "Docker's bridge network with its rules; the hosts route each other's subnet",
        does: Does::Everything,
        setup: docker::routes,
    },
    Candidate {
        name: "docker bridge + ports",
        what: "Docker's bridge network, ports published by its rules",
        does: Does::Everything,
        setup: docker::ports,
    },
    Candidate {
        name: "docker bridge + proxy",
        what: "Docker's bridge network, ports published by docker-proxy (iptables off)",
        does: Does::Everything,
        setup: docker::proxy,
    },
    Candidate {
        name: OVERLAY,
        what: "Docker's overlay network, swarm mode",
        does: Does::Everything,
        setup: docker::overlay,
    },
    Candidate {
        name: "tinc",
        what: "a mesh in user space over UDP, without encryption (Weave's and flannel's UDP way)",
        does: Does::Everything,
        setup: mesh::tinc,
    },
    Candidate {
        name: BIG,
        what: "Margay with --big-tcp on both hosts",
        does: Does::Everything,
        setup: margay::margay_big,
    },
    Candidate {
        name: "margay netkit",
        what: "Margay with --container-device netkit on both hosts",
        does: Does::Everything,
        setup: margay::margay_netkit,
    },
    Candidate {
        name: HOST_BIG,
        what: "the limit, with BIG TCP of 192 KiB on the uplinks",
        does: Does::Streams,
        setup: kernel::host_big,
    },
    Candidate {
        name: "bridge BIG TCP",
        what: "the bridge, with BIG TCP of 192 KiB on every interface",
        does: Does::Streams,
        setup: || kernel::enlarge(kernel::bridge()),
    },
    Candidate {
        name: "routed veth BIG TCP",
        what: "routed veths, with BIG TCP of 192 KiB on every interface",
        does: Does::Streams,
        setup: || kernel::enlarge(kernel::routed()),
    },
    Candidate {
        name: "macvlan BIG TCP",
        what: "macvlan, with BIG TCP of 192 KiB on every interface",
        does: Does::Streams,
        setup: || kernel::enlarge(kernel::macvlan()),
    },
    Candidate {
        name: "bridge + VXLAN BIG TCP",
        what: "the bridge and VXLAN, with BIG TCP of 192 KiB on every interface",
        does: Does::Streams,
        setup: || kernel::enlarge(kernel::vxlan()),
    },
];

/// Something to be dropped at the end.
type Kept = Box<dyn Any>;

/// The ends of a candidate's ways.
struct Built {
    across: Way,
    local: Way,
    keep: Vec<Kept>,
}

/// A candidate with its servers running.
pub struct Ready {
    /// Which one.
    pub candidate: Candidate,
    across: (Way, Servers),
    local: (Way, Servers),
    _keep: Vec<Kept>,
}

impl Candidate {
    /// Sets it up; why that cannot be otherwise.
    pub fn set_up(self, congestion: &str) -> Result<Ready, String> {
        let quiet = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let made = panic::catch_unwind(|| {
            let Built { across, local, keep } = (self.setup)();
            congestion::unify(congestion);
            cable::receive_like_cards();
            let dir = PathBuf::from("/run/margay-bench").join(self.name.replace([' ', ','], "-"));
            let serve = |way: Way, place: &str| {
                way.client.sysctl("net.ipv4.ip_local_port_range", "10000 65535");
                way.client.sysctl("net.ipv4.tcp_tw_reuse", "1");
                let servers = Servers::start(&way.server, &dir.join(place));
                (way, servers)
            };
            let (across, local) = (serve(across, "across"), serve(local, "local"));
            Ready { candidate: self, across, local, _keep: keep }
        });
        panic::set_hook(quiet);
        made.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it could not be set up").to_owned()
        })
    }
}

impl Ready {
    /// What both ends of both ways have to control congestion.
    pub fn congestion(&self) -> Vec<String> {
        let ways = [&self.across.0, &self.local.0];
        ways.into_iter().flat_map(|way| [&way.client, &way.server]).map(congestion::of).collect()
    }

    /// The way and the servers of a place.
    pub fn at(&self, place: Place) -> (&Way, &Servers) {
        let (way, servers) = match place {
            Place::Across | Place::Pinned => &self.across,
            Place::Local => &self.local,
        };
        (way, servers)
    }
}

/// Two hosts and a cable.
fn hosts() -> Lab {
    Lab::without_etcd(Plan { v6: false, ..Plan::direct() })
}

/// Another handle of a host's namespace.
fn host(lab: &Lab, i: usize) -> Namespace {
    Namespace::existing(lab.h(i).namespace.name())
}

/// The address of a host on the cable.
fn uplink(i: usize) -> IpAddr {
    [192, 0, 2, i as u8].into()
}

/// A container with a veth to a host, its end there without an address.
fn wired(lab: &Lab, host: usize, outside: &str) -> Namespace {
    let container = lab.container();
    wire(&container, &lab.h(host).namespace, outside);
    container
}

/// Gives a container a veth to a host, its end there without an address.
fn wire(container: &Namespace, host: &Namespace, outside: &str) {
    let inside = container.name();
    sh(&format!("ip link add eth0 netns {inside} type veth peer name {outside} netns {}", host.name()));
    container.sh("ip link set eth0 up");
    host.sh(&format!("ip link set {outside} up"));
}
