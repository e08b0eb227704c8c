//! A slow program on the host delays nothing else.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use margay::kernel::table::HashTable;
use margay_common::{maps, net::Addr, route::Neighbour};
use margay_tests::{eventually::eventually, lab::Lab, lab::Plan};

/// An `nft` that says when it begins and ends, and that takes as long as there is a file.
fn slow_nft(dir: &Path) -> PathBuf {
    let programs = dir.join("slow");
    std::fs::create_dir_all(&programs).expect("a folder");
    let script = format!(
        "#!/bin/sh\nPATH=${{PATH#*:}}\necho begun >>{dir}/nft.log\n\
         while [ -e {dir}/hold ]; do sleep 0.05; done\n\
         nft \"$@\"\nstatus=$?\necho ended >>{dir}/nft.log\nexit $status\n",
        dir = dir.display()
    );
    let nft = programs.join("nft");
    std::fs::write(&nft, script).expect("a folder");
    std::fs::set_permissions(&nft, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    programs
}

/// How many processes of it have begun, and how many have ended.
fn counted(dir: &Path) -> (usize, usize) {
    let log = std::fs::read_to_string(dir.join("nft.log")).unwrap_or_default();
    let count = |what: &str| log.lines().filter(|line| *line == what).count();
    (count("begun"), count("ended"))
}

/// Until when the next hops are fresh, the latest of them.
fn fresh_until(map: &Path) -> u64 {
    let table = HashTable::<Addr, Neighbour>::open(map).expect("the maps are pinned");
    table.read().expect("a map").values().map(|neighbour| neighbour.until).max().unwrap_or_default()
}

#[test]
fn slow_nft_delays_neither_attach_nor_neighbours() {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    let dir = lab.plan.dir.join("h1-nft");
    let programs = slow_nft(&dir);
    lab.host(1).masquerade = true;
    lab.host(1).flags = vec!["--xdp".into(), "generic".into()];
    lab.host(1).programs = Some(programs);
    (1..=2).for_each(|i| lab.host(i).up());
    lab.h(1).ok(&["network", "create", "far", "--subnet", "10.3.0.0/16", "--routable"]);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (_there, _) = lab.attached(2, "far");
    let (_here, _) = lab.attached(1, "blue");
    lab.h(1).well();
    let map = lab.h(1).pin(&maps::NEIGHBOURS);
    eventually("the other node is fresh", || if fresh_until(&map) > 0 { Ok(()) } else { Err(()) });

    // From here on no nft ends.
    std::fs::write(dir.join("hold"), "").expect("a folder");
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    eventually("an nft runs that does not end", || match counted(&dir) {
        (begun, ended) if begun > ended => Ok(()),
        other => Err(other),
    });
    let (before, ended) = (fresh_until(&map), counted(&dir).1);
    let (first, _) = lab.attached(1, "red");
    let (second, addresses) = lab.attached(1, "red");
    assert!(first.pings(addresses[0], 1));
    lab.h(1).detach(&second);
    // As the others see it: a subnet that is not masqueraded yet is in no table.
    let rules = lab.h(1).namespace.sh("nft list table inet margay");
    assert!(rules.contains("10.1.0.0/16") && !rules.contains("10.2.0.0/16"), "{rules}");
    // It is confirmed again all the while, for longer than one confirmation counts.
    let seconds = |n: u64| n * 1_000_000_000;
    eventually("the other node is still fresh", || match fresh_until(&map) {
        until if until > before + seconds(4) => Ok(()),
        other => Err(other),
    });
    lab.h(1).ok(&["status", "-o", "json"]);
    assert_eq!(counted(&dir).1, ended, "all of that while no nft has ended");

    std::fs::remove_file(dir.join("hold")).expect("it is there");
    eventually("what was held up is done", || {
        let rules = lab.h(1).namespace.sh("nft list table inet margay");
        if rules.contains("10.2.0.0/16") { Ok(()) } else { Err(rules) }
    });
    lab.h(1).well();
}
