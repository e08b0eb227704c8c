//! Three hosts, each with its own Docker Engine: create once, run everywhere.

use margay_tests::{engine::IMAGE, eventually::eventually, lab::Lab, process::Process};

use crate::{claim, note_process, plan, step};

/// Shows Docker on three hosts; whether everything was as expected.
pub fn show() -> bool {
    step("three hosts, a real etcd, and on each host an agent and a Docker Engine of its own");
    let plan = plan(3);
    let mut lab = Lab::without_agents(plan);
    note_process(lab.etcd_id());
    for host in &mut lab.hosts {
        host.masquerade = true;
        host.up();
        note_process(host.agent().id());
        host.start_docker(&[]);
        host.engine().processes().into_iter().for_each(note_process);
        println!("    {}: Docker Engine {}", host.name, host.docker("version --format {{.Server.Version}}"));
    }
    let good = [create(&lab), run(&lab), connect(&lab), remove(&lab)];
    good.iter().all(|holds| *holds)
}

/// Runs a docker command on a host, and prints it.
fn docker(lab: &Lab, host: usize, line: &str) -> String {
    println!("    h{host}$ docker {line}");
    lab.h(host).docker(line)
}

fn create(lab: &Lab) -> bool {
    step("a network is created on one host, once");
    docker(lab, 1, "network create -d margay --ipam-driver margay shop");
    for host in [2, 3] {
        eventually("the network is there", || {
            let said = lab.h(host).try_docker("network inspect shop");
            if said.ok() { Ok(()) } else { Err(said) }
        });
    }
    let listed = docker(lab, 3, "network ls --filter driver=margay");
    listed.lines().for_each(|line| println!("      {line}"));
    claim("every host's Docker has it", listed.contains("shop"))
}

fn run(lab: &Lab) -> bool {
    step("containers on every host; each reaches every other");
    for host in 1..=3 {
        docker(
            lab,
            host,
            &format!("run -d --stop-signal KILL --name web{host} --network shop {IMAGE} sleep 1000"),
        );
    }
    let mut good = true;
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        let addr = address(lab, to, "shop");
        let reached = reaches(lab, from, &addr);
        good &= claim(&format!("web{from} on h{from} reaches web{to} on h{to}"), reached);
    }
    let table = lab.h(1).ok(&["endpoint", "ls"]);
    println!("    h1$ margay endpoint ls");
    table.lines().for_each(|line| println!("      {line}"));
    good
}

fn connect(lab: &Lab) -> bool {
    step("a second network comes and goes while traffic flows on the first");
    docker(lab, 2, "network create -d margay --ipam-driver margay --internal stock");
    eventually("the network is there", || {
        let said = lab.h(1).try_docker("network inspect stock");
        if said.ok() { Ok(()) } else { Err(said) }
    });
    docker(lab, 2, &format!("run -d --stop-signal KILL --name db --network stock {IMAGE} sleep 1000"));
    let (web, db) = (
        address(lab, 2, "shop"),
        lab.h(2).docker("inspect -f {{.NetworkSettings.Networks.stock.IPAddress}} db"),
    );
    println!("    h1$ docker exec web1 ping -i 0.05 -c 60 {web}        (in the background)");
    let mut command = lab.h(1).engine().command();
    command.args(["exec", "web1", "ping", "-i", "0.05", "-c", "60", &web]);
    let mut flow = Process::start(command, &lab.h(1).dir().join("flow.log"), false);
    docker(lab, 1, "network connect stock web1");
    let joined = claim("web1 reaches the database by the second network", reaches(lab, 1, &db));
    docker(lab, 1, "network disconnect stock web1");
    let gone = claim("and no longer once it is disconnected", !reaches(lab, 1, &db));
    flow.wait();
    let log = flow.log();
    let summary = log.lines().find(|line| line.contains("packet loss")).unwrap_or_default();
    println!("      {summary}");
    joined & gone & claim("the traffic on the first did not notice", summary.contains(" 0% packet loss"))
}

fn remove(lab: &Lab) -> bool {
    step("containers end, the networks go from every host");
    for host in 1..=3 {
        docker(lab, host, &format!("rm -f web{host}"));
    }
    docker(lab, 2, "rm -f db");
    docker(lab, 3, "network rm shop");
    docker(lab, 1, "network rm stock");
    eventually("the networks are gone", || {
        let left = lab.h(2).docker("network ls --filter driver=margay -q");
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    claim("no container of them is left on h2", lab.h(2).json(&["endpoint", "ls"]) == serde_json::json!([]))
}

/// Whether a host's container reaches an address; prints the command.
fn reaches(lab: &Lab, host: usize, addr: &str) -> bool {
    let line = format!("exec web{host} ping -c 2 -W 1 {addr}");
    println!("    h{host}$ docker {line}");
    lab.h(host).try_docker(&line).ok()
}

fn address(lab: &Lab, host: usize, network: &str) -> String {
    lab.h(host).docker(&format!("inspect -f {{{{.NetworkSettings.Networks.{network}.IPAddress}}}} web{host}"))
}
