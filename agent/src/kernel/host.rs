//! This host's kernel, as tables.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, anyhow};
use aya::programs::Xdp;
use margay_common::verdict::Program;
use rtnetlink::Handle;
use tokio::sync::Mutex;

use super::{
    Kernel, Part,
    attach::{self, TcMode},
    datapath::{Datapath, Extras},
    facts, firewall, link,
    maps::Maps,
    pins::Pins,
    sysctl::{self, Originals},
    world, xdp,
};
use crate::{
    reconcile::Change,
    tables::{Attachment, Entry, HOST_INTERFACE, Interface, Key, Tables},
};

/// This host's kernel.
#[derive(Clone)]
pub struct Host {
    pins: Pins,
    netlink: Handle,
    mode: TcMode,
    uplink: String,
    originals: Originals,
    /// Nobody else's: who reads maps has handles of their own, so that the loop waits for none.
    datapath: Arc<Mutex<Datapath>>,
    /// The program of XDP, unless this kernel refuses it: a driver may take seconds for it.
    xdp: Arc<Mutex<Option<Xdp>>>,
    /// The kernel's ids of our programs.
    ids: Arc<BTreeMap<Program, u32>>,
}

impl Host {
    /// Loads the programs, or finds them loaded.
    pub fn new(
        pins: Pins,
        netlink: Handle,
        mode: TcMode,
        uplink: String,
        originals: Originals,
        extras: Extras,
    ) -> Result<Self> {
        let mut datapath = Datapath::load(&pins, extras)?;
        let ids = datapath.programs.keys().map(|program| Ok((*program, datapath.program_id(*program)?)));
        let mut ids = ids.collect::<Result<BTreeMap<Program, u32>>>()?;
        let xdp = datapath.xdp.take();
        if let Some(program) = &xdp {
            ids.insert(Program::Xdp, program.info()?.id());
        }
        let (datapath, xdp) = (Arc::new(Mutex::new(datapath)), Arc::new(Mutex::new(xdp)));
        Ok(Self { pins, netlink, mode, uplink, originals, datapath, xdp, ids: Arc::new(ids) })
    }

    async fn attachment(&self, interface: &str) -> Result<Option<Attachment>> {
        let found = attach::attached(self.mode, &self.pins, &self.netlink, interface).await?;
        let Some((hook, id)) = found else { return Ok(None) };
        let program = attach::program_at(hook, interface, &self.uplink);
        let current = self.ids.get(&program) == Some(&id);
        Ok(Some(Attachment { program, current }))
    }

    async fn read_interfaces(&self, tables: &mut Tables) -> Result<()> {
        for link in link::list(&self.netlink).await? {
            if link.name == HOST_INTERFACE && link.up {
                tables.interfaces.insert(link.name, Interface::Host { mtu: link.mtu });
            } else if facts::is_own(&link.name) && link.up {
                tables.interfaces.insert(link.name, Interface::Endpoint);
            }
        }
        Ok(())
    }

    async fn put(&mut self, entry: &Entry) -> Result<()> {
        let datapath = async || self.datapath.lock().await;
        match entry {
            Entry::Interface(name, Interface::Host { mtu }) => self.put_host_interface(name, *mtu).await,
            // Attaching makes it; one that was set down is set up, and a lost one
            // ends with its endpoint.
            Entry::Interface(name, Interface::Endpoint) => match link::index(&self.netlink, name).await? {
                Some(index) => link::set_up(&self.netlink, index).await,
                None => Ok(()),
            },
            Entry::Attachment(name, wanted) => {
                let mut datapath = datapath().await;
                let program = datapath.programs.get_mut(&wanted.program);
                let program = program.context("every program is loaded")?;
                let hook = attach::hook(wanted.program).context("it is no program of tc's")?;
                attach::attach(self.mode, &self.pins, &self.netlink, name, hook, program).await
            }
            Entry::Xdp(name, wanted) => {
                let mut program = self.xdp.lock().await;
                let program = program.as_mut().context("this kernel refuses the XDP program")?;
                xdp::attach(&self.pins, &self.netlink, name, wanted.native, program).await
            }
            Entry::HostRoute(dst, route) => {
                let index = link::index(&self.netlink, HOST_INTERFACE).await?;
                let index = index.ok_or_else(|| anyhow!("{HOST_INTERFACE} is not there"))?;
                link::put_host_route(&self.netlink, index, *dst, route).await
            }
            Entry::Firewall((), wanted) => firewall::put(wanted).await,
            Entry::Accept(accept, ()) => firewall::put_accept(accept).await,
            Entry::Sysctl(key, value) => self.originals.set(&key.path, value),
            of_map => datapath().await.maps.put(of_map),
        }
    }

    async fn remove(&mut self, key: &Key) -> Result<()> {
        let datapath = async || self.datapath.lock().await;
        match key {
            Key::Interface(name) => link::remove(&self.netlink, name).await,
            Key::Attachment(name) => attach::detach(&self.pins, &self.netlink, name).await.map(drop),
            Key::Xdp(name) => xdp::detach(&self.pins, name).map(drop),
            Key::HostRoute(dst) => link::remove_host_route(&self.netlink, *dst).await,
            Key::Firewall(()) => firewall::remove().await,
            Key::Accept(accept) => firewall::remove_accept(accept).await,
            Key::Sysctl(key) => self.originals.restore(&key.path),
            of_map => datapath().await.maps.remove(of_map),
        }
    }

    /// Makes `margay0`, or gives it the MTU that it should have. It has no
    /// address; the kernel's routes lead to it through gateways on its link.
    async fn put_host_interface(&self, name: &str, mtu: u32) -> Result<()> {
        if link::find(&self.netlink, name).await?.is_none() {
            link::add_host_pair(&self.netlink, name, mtu).await?;
        }
        // No link-local address, no advertisements: nothing there speaks IPv6
        // but what the host routes to it.
        for interface in [name, link::HOST_PEER] {
            sysctl::set("ipv6", interface, "accept_ra", "0")?;
            sysctl::set("ipv6", interface, "addr_gen_mode", "1")?;
        }
        for interface in [link::HOST_PEER, name] {
            let found = link::find(&self.netlink, interface).await?;
            let found = found.ok_or_else(|| anyhow!("{interface} is not there"))?;
            link::set_mtu(&self.netlink, found.index, mtu).await?;
            link::set_up(&self.netlink, found.index).await?;
        }
        Ok(())
    }
}

impl Host {
    /// What is our own in the kernel.
    async fn read_own(&self) -> Result<Tables> {
        let host_routes = link::host_routes(&self.netlink).await?.into_iter().collect();
        let mut tables = Tables { host_routes, ..Tables::default() };
        self.read_interfaces(&mut tables).await?;
        // Separate handles: a writer does not wait while a million entries are read.
        Maps::open(&self.pins)?.read(&mut tables)?;
        let current = self.ids.get(&Program::Xdp).copied();
        // What is at no interface any more is unpinned: not while it is just being attached.
        // A driver may take seconds for that: what is known of XDP counts meanwhile.
        if let Ok(_not_attaching) = self.xdp.try_lock() {
            for interface in self.pins.xdp_interfaces()? {
                let found = xdp::attached(&self.pins, &self.netlink, &interface, current).await?;
                tables.xdp.extend(found.map(|found| (interface, found)));
            }
        }
        let pinned = self.pins.linked_interfaces()?;
        let own: Vec<String> = tables.interfaces.keys().cloned().collect();
        for interface in own.into_iter().chain([self.uplink.clone()]).chain(pinned) {
            if let Some(attachment) = self.attachment(&interface).await? {
                tables.attachments.insert(interface, attachment);
            } else {
                let _attaching = self.datapath.lock().await;
                attach::discard_husk(&self.pins, &interface)?;
            }
        }
        Ok(tables)
    }
}

impl Kernel for Host {
    async fn read(&mut self, part: Part) -> Result<Tables> {
        match part {
            Part::Own => self.read_own().await,
            Part::Host => world::tables(&self.netlink, &self.originals).await,
        }
    }

    async fn apply(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Put(entry) => self.put(entry).await,
            Change::Remove(key) => self.remove(key).await,
        }
    }
}
