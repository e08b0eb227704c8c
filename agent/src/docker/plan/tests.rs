use super::*;

fn seen(id: &str, name: &str, driver: &str) -> Seen {
    Seen { id: id.into(), name: name.into(), driver: driver.into(), ..Seen::default() }
}

fn entry(id: &str, network: u32) -> (String, RuntimeNetwork) {
    let entry =
        RuntimeNetwork { id: id.into(), network, wanted: None, since: 100, chosen: false, removed: false };
    (id.into(), entry)
}

fn network(id: u32, name: &str, unnamed: bool) -> (u32, Network) {
    let request = NetworkRequest {
        name: name.into(),
        subnets: vec![format!("10.{id}.0.0/16").parse().expect("a literal")],
        unnamed,
        ..NetworkRequest::default()
    };
    (id, request.into_network(id).expect("valid"))
}

/// The plan of a host at second 1000, as text.
fn steps(docker: &[Seen], register: &[(String, RuntimeNetwork)], cluster: &[(u32, Network)]) -> Vec<String> {
    used_steps(&[], docker, register, cluster)
}

/// The same where containers are on networks of these names.
fn used_steps(
    used: &[&str],
    docker: &[Seen],
    register: &[(String, RuntimeNetwork)],
    cluster: &[(u32, Network)],
) -> Vec<String> {
    let (register, cluster) = (register.iter().cloned().collect(), cluster.iter().cloned().collect());
    let mut unlisted = BTreeMap::new();
    note_unlisted(&mut unlisted, docker, &register, 0);
    let used = used.iter().map(|name| (*name).to_owned()).collect();
    let view = View {
        docker,
        used: &used,
        register: &register,
        // Since the beginning of time.
        unlisted: &unlisted,
        cluster: &cluster,
        making: &BTreeSet::new(),
        now: 1000,
        quiet: 60,
    };
    plan(&view).0.iter().map(|step| format!("{step:?}")).collect()
}

#[test]
fn network_of_both_sides_needs_no_step() {
    let docker = [seen("a", "blue", DRIVER), seen("x", "bridge", "bridge")];
    assert!(steps(&docker, &[entry("a", 1)], &[network(1, "blue", false)]).is_empty());
}

#[test]
fn networks_that_one_side_lacks_are_created_or_removed() {
    let made = steps(&[], &[], &[network(1, "blue", false), network(2, "docker-abc", true)]);
    assert_eq!(made, ["Make { network: 1 }"], "one without a name is another host's");
    let gone = steps(&[seen("a", "blue", DRIVER)], &[entry("a", 1)], &[]);
    assert_eq!(gone, [r#"Drop { docker: "a", name: "blue", why: None }"#]);
    let strange = steps(&[seen("a", "blue", DRIVER)], &[], &[]);
    assert_eq!(strange, [r#"Adopt { docker: "a" }"#]);
    let lost = steps(&[], &[entry("a", 1)], &[network(1, "blue", false)]);
    assert_eq!(lost, [r#"Forget { docker: "a", network: 1 }"#]);
}

#[test]
fn network_without_a_named_subnet_is_made_again_once_it_is_unused() {
    let (docker, cluster) = ([seen("a", "blue", DRIVER)], [network(1, "blue", false)]);
    let (id, plain) = entry("a", 1);
    let of = |since| (id.clone(), RuntimeNetwork { chosen: true, since, ..plain.clone() });
    let remake = r#"Remake { docker: "a", network: 1 }"#;
    assert_eq!(steps(&docker, &[of(100)], &cluster), [remake]);
    assert!(steps(&docker, &[of(999)], &cluster).is_empty(), "who made it may be about to use it");
    for used in ["a", "blue"] {
        assert!(used_steps(&[used], &docker, &[of(100)], &cluster).is_empty(), "{used}");
    }
    assert_eq!(used_steps(&["red"], &docker, &[of(100)], &cluster), [remake]);
    let unnamed = steps(&docker, &[of(100)], &[network(1, "docker-abc", true)]);
    assert!(unnamed[0].starts_with("Name"), "{unnamed:?}");
}

#[test]
fn network_is_made_again_only_while_docker_is_quiet_or_never_is() {
    let (docker, cluster) = ([seen("a", "blue", DRIVER)], BTreeMap::from([network(1, "blue", false)]));
    let (id, plain) = entry("a", 1);
    let register = BTreeMap::from([(id, RuntimeNetwork { chosen: true, ..plain })]);
    let asked = BTreeSet::from(["10.9.0.0/16".parse().expect("a literal")]);
    let remade = |now, quiet, making: &BTreeSet<_>| {
        let view = View {
            docker: &docker,
            used: &BTreeSet::new(),
            register: &register,
            unlisted: &BTreeMap::new(),
            cluster: &cluster,
            making,
            now,
            quiet,
        };
        !plan(&view).0.is_empty()
    };
    let none = BTreeSet::new();
    assert!(remade(111, 10, &none));
    assert!(!remade(111, 9, &none), "somebody is at work, who may have seen the network");
    assert!(!remade(111, 10, &asked), "somebody makes another network");
    assert!(remade(200, 0, &asked), "a busy Docker does not put it off for ever");
}

#[test]
fn network_gets_the_name_asked_for_or_else_that_in_docker() {
    let docker = [seen("a", "blue", DRIVER)];
    let learnt = steps(&docker, &[entry("a", 1)], &[network(1, "docker-abc", true)]);
    assert_eq!(learnt, [r#"Name { docker: "a", network: 1, name: "blue" }"#]);
    let (id, mut wanted) = entry("a", 1);
    wanted.wanted = Some("red".into());
    let asked = steps(&docker, &[(id.clone(), wanted.clone())], &[network(1, "docker-abc", true)]);
    assert_eq!(asked, [r#"Name { docker: "a", network: 1, name: "red" }"#]);
    assert!(steps(&docker, &[(id, wanted)], &[network(1, "red", false)]).is_empty(), "two names are fine");
    let other = steps(&docker, &[entry("a", 1)], &[network(1, "red", false)]);
    assert!(other[0].contains("10.1.0.0/16 is network red's"), "{other:?}");
}

#[test]
fn network_of_another_driver_with_the_same_name_is_left_alone() {
    let blocked = steps(&[seen("x", "blue", "bridge")], &[], &[network(1, "blue", false)]);
    assert_eq!(blocked, [r#"NameTaken { name: "blue", driver: "bridge" }"#]);
}

#[test]
fn duplicate_docker_networks_leave_the_older() {
    let docker = [seen("a", "blue", DRIVER), seen("b", "blue", DRIVER)];
    let (id, newer) = entry("b", 1);
    let newer = (id, RuntimeNetwork { since: 200, ..newer });
    let dropped = steps(&docker, &[entry("a", 1), newer], &[network(1, "blue", false)]);
    assert_eq!(dropped, [r#"Drop { docker: "b", name: "blue", why: None }"#]);
}

#[test]
fn network_is_not_made_while_its_user_may_be_making_it() {
    let cluster = BTreeMap::from([network(1, "blue", false)]);
    let making = BTreeSet::from(["10.1.0.0/16".parse().expect("a literal")]);
    let view = View {
        docker: &[],
        used: &BTreeSet::new(),
        register: &BTreeMap::new(),
        unlisted: &BTreeMap::new(),
        cluster: &cluster,
        making: &making,
        now: 1000,
        quiet: 60,
    };
    assert_eq!(plan(&view), (vec![], true));
    let fresh = BTreeMap::from([entry("a", 2)]);
    let view = View { register: &fresh, making: &BTreeSet::new(), now: 105, ..view };
    assert_eq!(plan(&view), (vec![], true));
}

#[test]
fn network_that_its_user_removed_is_removed_from_the_cluster() {
    let (id, gone) = entry("a", 1);
    let gone = (id, RuntimeNetwork { removed: true, ..gone });
    let removed = steps(&[], &[gone], &[network(1, "blue", false)]);
    assert_eq!(removed, [r#"Remove { docker: "a", network: 1 }"#], "and it is not made again meanwhile");
}

/// Docker lists a network no longer before it tells us that its user removes it.
#[test]
fn network_that_docker_stops_listing_is_lost_only_after_a_while() {
    let (register, cluster) = (BTreeMap::from([entry("a", 1)]), BTreeMap::from([network(1, "blue", false)]));
    let mut unlisted = BTreeMap::new();
    let mut look = |docker: &[Seen], now| {
        note_unlisted(&mut unlisted, docker, &register, now);
        let view = View {
            docker,
            used: &BTreeSet::new(),
            register: &register,
            unlisted: &unlisted,
            cluster: &cluster,
            making: &BTreeSet::new(),
            now,
            quiet: 60,
        };
        plan(&view)
    };
    let there = [seen("a", "blue", DRIVER)];
    assert_eq!(look(&there, 1000), (vec![], false));
    assert_eq!(look(&[], 1001), (vec![], true), "its user may be removing it: it is not made again");
    assert_eq!(look(&[], 1011), (vec![], true));
    assert_eq!(look(&there, 1012), (vec![], false));
    assert_eq!(look(&[], 1013), (vec![], true), "the time starts from zero");
    let lost = Step::Forget { docker: "a".into(), network: 1 };
    assert_eq!(look(&[], 1024), (vec![lost], false));
}
