//! A mesh in user space.

use std::{fs, net::IpAddr, process::Command};

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    lab::Lab,
    process::{Process, say},
};

use super::{Built, Kept, host as on, hosts, kernel::route_to, uplink, wired};
use crate::work::Way;

/// tinc: each host routes the other's subnet into a tun device.
pub fn tinc() -> Built {
    let lab = hosts();
    for i in [1, 2] {
        configure(&lab, i);
    }
    for (i, other) in [(1, 2), (2, 1)] {
        let [own, others] = [i, other].map(|i| lab.h(i).dir().join("tinc/hosts").join(format!("h{i}")));
        fs::copy(own, lab.h(other).dir().join(format!("tinc/hosts/h{i}"))).expect("a disk");
        drop(others);
    }
    let mut keep: Vec<Kept> = [1, 2].map(|i| -> Kept { Box::new(daemon(&lab, i)) }).into();
    let [first, second, third] = [(1, 1), (2, 1), (1, 2)].map(|(host, n)| container(&lab, host, n));
    let client = Namespace::existing(first.0.name());
    eventually("the mesh carries packets", || {
        let said = client.run(&format!("ping -n -q -c 1 -W 1 {}", second.1));
        if said.ok() { Ok(()) } else { Err(said) }
    });
    keep.push(Box::new(lab));
    Built {
        across: Way { client: first.0, server: second.0, target: second.1 },
        local: Way { client, server: third.0, target: third.1 },
        keep,
    }
}

fn configure(lab: &Lab, i: usize) {
    let dir = lab.h(i).dir().join("tinc");
    let connect = if i == 2 { "ConnectTo = h1\n" } else { "" };
    fs::create_dir_all(dir.join("hosts")).expect("a folder");
    fs::write(dir.join("tinc.conf"), format!("Name = h{i}\nMode = router\nInterface = mesh0\n{connect}"))
        .expect("a disk");
    let host = format!(
        "Address = {}\nSubnet = 10.6.{i}.0/24\nCipher = none\nDigest = none\nCompression = 0\n",
        uplink(i)
    );
    fs::write(dir.join(format!("hosts/h{i}")), host).expect("a disk");
    let said = say(Command::new("tincd").arg("-c").arg(&dir).args(["-K", "2048"]));
    assert!(said.ok(), "tincd: {said:?}");
}

fn daemon(lab: &Lab, i: usize) -> Process {
    let dir = lab.h(i).dir().join("tinc").display().to_string();
    let host = on(lab, i);
    host.sysctl("net.ipv4.ip_forward", "1");
    let daemon =
        host.start(&format!("tincd -D -c {dir} --pidfile={dir}/pid"), &lab.h(i).dir().join("tinc.log"));
    eventually("tincd makes its interface", || {
        let said = host.run("ip link set mesh0 up");
        if said.ok() { Ok(()) } else { Err(format!("{said:?} {}", daemon.log())) }
    });
    host.sh(&format!("ip route add 10.6.{}.0/24 dev mesh0", 3 - i));
    daemon
}

fn container(lab: &Lab, host: usize, n: usize) -> (Namespace, IpAddr) {
    let addr = IpAddr::from([10, 6, host as u8, (1 + n) as u8]);
    let container = wired(lab, host, &format!("v{n}"));
    route_to(&on(lab, host), &format!("v{n}"), &container, addr);
    (container, addr)
}
