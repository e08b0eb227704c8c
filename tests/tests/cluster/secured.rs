//! etcd with TLS both ways and users with passwords.

use std::path::Path;

use margay_tests::{
    eventually::eventually,
    host::Host,
    lab::{ETCD, Lab, Plan},
    process::{Said, say, sh},
};

use crate::{matrix::routed, store::PATIENT};

/// A CA, a certificate for etcd's address and one for its clients.
fn certificates(dir: &Path) {
    let path = |name: &str| dir.join(name).display().to_string();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    sh(&format!("openssl req -x509 {key} -subj /CN=ca -keyout {} -out {}", path("ca.key"), path("ca.pem")));
    for (name, extension) in
        [("etcd", format!("subjectAltName=IP:{ETCD}")), ("client", "basicConstraints=CA:FALSE".into())]
    {
        let (keyfile, request, extensions) =
            (path(&format!("{name}.key")), path(&format!("{name}.csr")), path("ext"));
        sh(&format!("openssl req {key} -subj /CN={name} -keyout {keyfile} -out {request}"));
        std::fs::write(&extensions, extension).expect("it writes");
        let signed = path(&format!("{name}.pem"));
        sh(&format!(
            "openssl x509 -req -days 2 -in {request} -CA {} -CAkey {} -CAcreateserial -extfile {extensions} -out {signed}",
            path("ca.pem"),
            path("ca.key")
        ));
    }
}

fn etcdctl(lab: &Lab, dir: &Path, args: &str) -> Said {
    let mut command = lab.wire.command("etcdctl");
    command.env("ETCDCTL_API", "3").args(PATIENT).args(["--endpoints", &format!("https://{ETCD}:2379")]);
    for (flag, file) in [("--cacert", "ca.pem"), ("--cert", "client.pem"), ("--key", "client.key")] {
        command.arg(flag).arg(dir.join(file));
    }
    say(command.args(args.split(' ')))
}

/// A lab whose etcd wants certificates and a user.
fn secured() -> Lab {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    lab.kill_etcd();
    std::fs::remove_dir_all(lab.plan.dir.join("etcd")).expect("its data");
    let dir = lab.plan.dir.clone();
    certificates(&dir);
    let file = |name: &str| dir.join(name).display().to_string();
    let flags = [
        "--cert-file",
        &file("etcd.pem"),
        "--key-file",
        &file("etcd.key"),
        "--trusted-ca-file",
        &file("ca.pem"),
        "--client-cert-auth",
    ];
    lab.start_etcd_with(&format!("https://{ETCD}:2379"), &flags);
    eventually("etcd answers", || {
        let said = etcdctl(&lab, &dir, "endpoint health");
        if said.ok() { Ok(()) } else { Err(said) }
    });
    for step in [
        "user add root:secret",
        "user grant-role root root",
        "role add margay",
        "role grant-permission margay --prefix=true readwrite /margay/",
        "user add margay:passwort",
        "user grant-role margay margay",
        "auth enable",
    ] {
        let said = etcdctl(&lab, &dir, step);
        assert!(said.ok(), "etcdctl {step}: {said:?}");
    }
    for (name, password) in [("right", "passwort\n"), ("wrong", "nonsense\n")] {
        std::fs::write(dir.join(name), password).expect("it writes");
    }
    let files = [("--etcd-ca", "ca.pem"), ("--etcd-cert", "client.pem"), ("--etcd-key", "client.key")];
    for host in &mut lab.hosts {
        host.flags = files.iter().flat_map(|(flag, name)| [(*flag).into(), file(name)]).collect();
        host.flags.extend([
            "--etcd-user".into(),
            "margay".into(),
            "--etcd-password-file".into(),
            file("right"),
        ]);
    }
    lab
}

#[test]
fn secured_etcd_is_used_with_the_right_credentials_only() {
    let mut lab = secured();
    wrong_password_is_reported_and_nothing_is_touched(&mut lab);
    tls_errors_are_explained(&mut lab);
    agents_share_routes_through_a_secured_etcd(&mut lab);
    lost_etcd_permission_is_reported_until_it_is_granted_again(&mut lab);
}

/// Starts h1's agent with other flags, and returns its reason why the store is away.
fn away_with(lab: &mut Lab, flags: Vec<String>, words: &str) {
    let right = std::mem::replace(&mut lab.host(1).flags, flags);
    lab.host(1).start();
    eventually(words, || {
        let status = lab.h(1).json(&["status"]);
        let problems = status["problems"].to_string();
        if problems.contains(words) && problems.contains(ETCD) { Ok(()) } else { Err(status) }
    });
    let text = lab.h(1).margay(&["status"]).out + &lab.h(1).log();
    for jargon in ["grpc", "tonic", "transport error", "os error", "etcdserver"] {
        assert!(!text.contains(jargon), "{jargon}: {text}");
    }
    lab.host(1).kill();
    lab.host(1).flags = right;
}

fn tls_errors_are_explained(lab: &mut Lab) {
    let other = lab.plan.dir.join("other");
    std::fs::create_dir_all(&other).expect("a folder");
    certificates(&other);
    let right = lab.h(1).flags.clone();
    let with = |flag: &str, value: String| {
        let mut flags = right.clone();
        let at = flags.iter().position(|found| found == flag).expect("the flag");
        flags[at + 1] = value;
        flags
    };
    away_with(
        lab,
        with("--etcd-ca", other.join("ca.pem").display().to_string()),
        "certificate of another CA",
    );
    let without = right.iter().position(|flag| flag == "--etcd-cert").expect("the flag");
    let mut flags = right.clone();
    flags.drain(without..without + 4);
    away_with(lab, flags, "or a certificate of this node (--etcd-cert");
    away_with(lab, vec![], "it may want TLS (--etcd-ca)");
}

fn lost_etcd_permission_is_reported_until_it_is_granted_again(lab: &mut Lab) {
    let dir = lab.plan.dir.clone();
    let as_root = |lab: &Lab, args: &str| {
        let said = etcdctl(lab, &dir, &format!("--user=root:secret {args}"));
        assert!(said.ok(), "{args}: {said:?}");
    };
    as_root(lab, "role grant-permission margay --prefix=true read /margay/");
    let refusal = lab.h(1).refused(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    assert!(refusal.contains("denies this node's user keys below /margay/"), "{refusal}");
    eventually("status says it", || {
        let status = lab.h(1).json(&["status"]);
        if status["problems"].to_string().contains("role grant-permission") { Ok(()) } else { Err(status) }
    });
    as_root(lab, "role grant-permission margay --prefix=true readwrite /margay/");
    lab.h(1).well();
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
}

fn wrong_password_is_reported_and_nothing_is_touched(lab: &mut Lab) {
    let wrong = lab.plan.dir.join("wrong").display().to_string();
    let right = std::mem::replace(lab.host(1).flags.last_mut().expect("a flag"), wrong);
    lab.host(1).start();
    eventually("it says so", || {
        let status = lab.h(1).json(&["status"]);
        let reason = status["store"]["away"].to_string();
        if reason.contains("authentication failed") { Ok(()) } else { Err(status) }
    });
    assert!(!lab.h(1).namespace.run("ip link show margay0").ok());
    lab.host(1).kill();
    *lab.host(1).flags.last_mut().expect("a flag") = right;
}

fn agents_share_routes_through_a_secured_etcd(lab: &mut Lab) {
    lab.hosts.iter_mut().for_each(Host::up);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    routed(lab);
    assert!(a.pings(addr_b[0], 2));
}
