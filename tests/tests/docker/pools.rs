//! Where Docker takes the subnets of its own networks from.

use margay_tests::{
    eventually::eventually,
    lab::{Lab, Plan},
};

#[test]
fn automatic_subnets_avoid_dockers_own_pools() {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    (1..=2).for_each(|i| lab.host(i).up());
    lab.host(2).start_docker(&["--default-address-pool", "base=10.200.0.0/16,size=24"]);
    lab.h(1).ok(&["pool", "rm", "10.192.0.0/10"]);
    lab.h(1).ok(&["pool", "add", "10.200.0.0/15", "--network-size", "16"]);
    eventually("the pool that Docker has on h2 is left out", || {
        lab.h(1).ok(&["network", "create", "auto"]);
        let subnet = lab.h(1).json(&["network", "ls"])[0]["subnets"][0]["cidr"].clone();
        if subnet == "10.201.0.0/16" {
            return Ok(());
        }
        lab.h(1).ok(&["network", "rm", "auto"]);
        Err(subnet)
    });
    // Nothing is wrong with that, and Docker goes on taking its own.
    lab.h(2).well();
    lab.h(2).docker("network create own");
    let own = lab.h(2).docker("network inspect own");
    assert!(own.contains("\"Subnet\": \"10.200."), "{own}");
}
