//! What users write behind `-o` and `--ipam-opt`. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::wire::Options;
use crate::model::network::{Dressing, Network, NetworkRequest, check_new_name};

/// The network of the cluster that a network of Docker is.
pub const NETWORK: &str = "margay.network";
/// Whether any router may send to the network.
const ROUTABLE: &str = "margay.routable";
/// Lengths of the blocks' prefixes, with a comma between those of two families.
const BLOCK_PREFIX: &str = "margay.block-prefix";
/// Addresses in one block: an earlier way to say the same.
const BLOCK_SIZE: &str = "margay.block-size";
/// The names under which users know the MTU.
const MTU: [&str; 3] = ["mtu", "com.docker.network.driver.mtu", "com.docker.network.mtu"];
/// The option that names interfaces in containers.
pub const IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
/// Options that change what containers get: networks that differ in one of them are not the same.
pub const COMPARED: &[&str] = &[IFACE_PREFIX];
/// Options of the bridge driver that change what containers can do, with the
/// value that changes nothing, and what to do instead.
const BRIDGE: [(&str, &str, &str); 4] = [
    ("com.docker.network.bridge.enable_icc", "true", "use a network for each container"),
    ("com.docker.network.bridge.enable_ip_masquerade", "true", "use margay.routable=true or --internal"),
    ("com.docker.network.bridge.inhibit_ipv4", "false", "leave it away"),
    ("com.docker.network.bridge.gateway_mode_ipv4", "nat", "use margay.routable=true or --internal"),
];
/// The options that there are.
const KNOWN: &str = "mtu, margay.network, margay.routable, margay.block-prefix, com.docker.network.driver.mtu \
                     and com.docker.network.container_iface_prefix";
/// Where `docker network create` puts what stands behind `-o`.
const GENERIC: &str = "com.docker.network.generic";

/// Takes the options of a network into a request.
pub fn apply(options: &Options, request: &mut NetworkRequest) -> Result<()> {
    request.internal = options.get("com.docker.network.internal").is_some_and(is_true);
    let none = Options::new();
    let given = options.get(GENERIC).and_then(Value::as_object).unwrap_or(&none);
    let mut kept = BTreeMap::new();
    for (key, value) in given {
        let text = text(value);
        match &**key {
            NETWORK => {
                check_new_name(&text)?;
                (request.name, request.unnamed) = (text.clone(), false);
            }
            ROUTABLE => request.routable = switch(key, &text)?,
            BLOCK_PREFIX => request.block_prefixes = prefixes(key, &text)?,
            BLOCK_SIZE => request.block_size = Some(number(key, &text)?),
            IFACE_PREFIX => check_prefix(&text)?,
            key if MTU.contains(&key) => request.mtu = Some(number(key, &text)?),
            // Options without a dot are the driver's own.
            key if key.starts_with("margay.") || !key.contains('.') => {
                bail!("there is no option {key}{}; there are {KNOWN}", why_not(key))
            }
            key => {
                let bridges = BRIDGE.iter().find(|(name, plain, _)| *name == key && *plain != text);
                if let Some((_, _, instead)) = bridges {
                    bail!("option {key}={text} is the bridge driver's, and Margay cannot do it; {instead}");
                }
            }
        }
        kept.insert(key.clone(), text);
    }
    request.runtime = Dressing { options: kept, labels: BTreeMap::new() };
    Ok(())
}

/// The options that Docker tells of a network, in the form in which it passes
/// them on.
pub fn from_docker(given: impl IntoIterator<Item = (String, String)>, internal: bool) -> Options {
    let generic: Options = given.into_iter().map(|(key, value)| (key, value.into())).collect();
    Options::from_iter([
        (GENERIC.to_owned(), generic.into()),
        ("com.docker.network.internal".to_owned(), internal.into()),
    ])
}

/// The options with which Docker makes a network that is there: [`apply`]
/// undone. They are those of its creator, since compose compares them with its file; what
/// a command of Margay's asked for is added.
pub fn of(network: &Network) -> BTreeMap<String, String> {
    let mut options = network.runtime.options.clone();
    if network.routable {
        options.entry(ROUTABLE.into()).or_insert_with(|| "true".into());
    }
    if let Some(mtu) = network.mtu
        && !MTU.iter().any(|key| options.contains_key(*key))
    {
        options.insert(MTU[1].into(), mtu.to_string());
    }
    options
}

/// The network that `--ipam-opt` names.
pub fn network_of(options: &Options) -> Result<Option<String>> {
    if let Some(key) = options.keys().find(|key| key.starts_with("margay.") && **key != NETWORK) {
        bail!("there is no IPAM option {key}; there is {NETWORK}");
    }
    let Some(name) = options.get(NETWORK).map(text) else { return Ok(None) };
    check_new_name(&name)?;
    Ok(Some(name))
}

/// What an option of another driver would promise.
fn why_not(key: &str) -> &'static str {
    if key == "encrypted" { ": Margay does not encrypt what containers send" } else { "" }
}

fn prefixes(key: &str, text: &str) -> Result<Vec<u8>> {
    let lengths: Result<_, _> =
        text.split(',').map(|len| len.trim().trim_start_matches('/').parse()).collect();
    lengths.with_context(|| {
        format!("option {key}={text}: use a prefix length, or two like 26,122 with two families")
    })
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str() == Some("true"))
}

fn switch(key: &str, text: &str) -> Result<bool> {
    match text {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => bail!("option {key}={text}: use true or false"),
    }
}

fn number(key: &str, text: &str) -> Result<u32> {
    match text.parse() {
        Ok(number) => Ok(number),
        Err(_) => bail!("option {key}={text}: use a number"),
    }
}

/// Docker puts a number behind the prefix, and names have 15 characters.
fn check_prefix(text: &str) -> Result<()> {
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
    if plain && (1..=11).contains(&text.len()) {
        return Ok(());
    }
    bail!("option {IFACE_PREFIX}={text}: use 1 to 11 visible characters without '/', ':' and '%'")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(generic: &Value) -> Result<NetworkRequest> {
        let options = json!({GENERIC: generic, "com.docker.network.internal": false});
        let mut request = NetworkRequest { unnamed: true, ..NetworkRequest::default() };
        apply(options.as_object().expect("an object"), &mut request).map(|()| request)
    }

    #[test]
    fn options_are_accepted_under_each_of_their_names() {
        for mtu in MTU {
            assert_eq!(with(&json!({mtu: "1400"})).expect("known").mtu, Some(1400));
        }
        let request = with(&json!({"margay.network": "blue", "margay.routable": "true", "own.opt": 7}));
        let request = request.expect("known");
        assert!(request.name == "blue" && !request.unnamed && request.routable);
        assert_eq!(request.runtime.options["own.opt"], "7");
        assert_eq!(with(&json!({"margay.block-prefix": "26,122"})).expect("known").block_prefixes, [26, 122]);
        assert_eq!(with(&json!({"margay.block-size": "64"})).expect("known").block_size, Some(64));
        assert_eq!(request.runtime.options[NETWORK], "blue", "as it was given");
    }

    #[test]
    fn a_network_is_made_again_with_the_same_options() {
        let subnets = vec!["10.1.0.0/16".parse().expect("a literal")];
        let by_command = NetworkRequest {
            name: "blue".into(),
            subnets,
            mtu: Some(1400),
            routable: true,
            ..Default::default()
        };
        let by_docker = with(&json!({"mtu": "1400", "margay.routable": "1", IFACE_PREFIX: "net"}));
        let by_docker = NetworkRequest {
            name: "blue".into(),
            runtime: by_docker.expect("known").runtime,
            ..by_command.clone()
        };
        for request in [by_command, by_docker] {
            let network = request.clone().into_network(1).expect("valid");
            assert!(!of(&network).contains_key(NETWORK), "nobody gave it");
            let mut again =
                NetworkRequest { name: "blue".into(), subnets: request.subnets, ..NetworkRequest::default() };
            apply(&from_docker(of(&network), false), &mut again).expect("valid");
            assert!(network.same_options(&again.into_network(1).expect("valid"), COMPARED));
        }
    }

    #[test]
    fn option_that_is_not_supported_is_refused_with_an_alternative() {
        for (generic, reason) in [
            (json!({"mtu": "big"}), "mtu=big: use a number"),
            (json!({"margay.networks": "x"}), "there are mtu, margay.network, margay.routable"),
            (json!({"margay.foo": ""}), "there is no option margay.foo; there are mtu"),
            (json!({"mtuu": "9000"}), "there is no option mtuu; there are mtu"),
            (json!({"encrypted": ""}), "does not encrypt"),
            (json!({"margay.network": "bridge"}), "reserved by the container runtime"),
            (json!({"margay.network": "a b"}), "network name \"a b\""),
            (json!({"com.docker.network.bridge.enable_icc": "false"}), "a network for each container"),
            (json!({IFACE_PREFIX: "much-too-long"}), "1 to 11"),
            (json!({"margay.block-prefix": "64 addresses"}), "use a prefix length"),
        ] {
            let refusal = with(&generic).expect_err("refused").to_string();
            assert!(refusal.contains(reason), "{refusal}");
        }
        assert!(with(&json!({"com.docker.network.bridge.enable_icc": "true"})).is_ok());
        assert!(with(&Value::Null).is_ok());
        let options = json!({"margay.net": "x"});
        assert!(network_of(options.as_object().expect("an object")).is_err());
    }
}
