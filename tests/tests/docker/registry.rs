//! Services that register their own address: README's example.

use std::path::Path;

use margay_tests::{engine::IMAGE, eventually::eventually, lab::ETCD};

use crate::{appears, lab};

#[test]
fn clients_reach_services_at_their_registered_addresses() {
    let lab = lab(3);
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/registry");
    let scripts = scripts.canonicalize().expect("the example").display().to_string();
    lab.h(1).docker("network create -d margay --ipam-driver margay shop");
    let flags = format!("--network shop -e ETCD={ETCD}:2379 -v {scripts}:/registry:ro");
    for host in &lab.hosts {
        appears(host, "shop");
        host.docker(&format!(
            "run -d --stop-signal KILL --hostname on-{} {flags} {IMAGE} sh /registry/service.sh",
            host.name
        ));
    }
    for host in &lab.hosts {
        eventually("every service answers", || {
            let said = host.try_docker(&format!("run --rm {flags} {IMAGE} sh /registry/client.sh"));
            let mut heard: Vec<&str> = said.out.lines().collect();
            heard.sort_unstable();
            if heard == ["hello from on-h1", "hello from on-h2", "hello from on-h3"] {
                Ok(())
            } else {
                Err(said)
            }
        });
    }
}
