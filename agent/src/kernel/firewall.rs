//! Our nftables table, and exceptions in iptables' chains, by the tools that
//! every distribution has for them.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use margay_common::net::{REPLY_MARK, REPLY_MASK};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::tables::{Accept, Direction, Firewall, HOST_INTERFACE};

/// Our table, of the family `inet`.
const TABLE: &str = "margay";
/// How long nft or iptables may take. One that hangs is ended and tried again.
const PATIENCE: Duration = Duration::from_secs(60);
/// What marks our rules in iptables' chains.
const COMMENT: &str = "margay";
/// What our rules are commented with, by which a damaged table is known.
const RULES: [&str; 3] = ["masquerade v4", "masquerade v6", "reply"];
const DROP_FORWARDED_V6: &str = "drop forwarded v6";

/// Replaces our table, in one transaction.
pub async fn put(firewall: &Firewall) -> Result<()> {
    nft(&script(firewall)).await
}

/// Removes our table, if it is there.
pub async fn remove() -> Result<()> {
    // Adding it first makes deleting it succeed in either case.
    nft(&format!("table inet {TABLE}\ndelete table inet {TABLE}\n")).await
}

/// Our table as it is; `None` where there is none. One that lacks a rule is
/// another than any that we want.
pub async fn read() -> Result<Option<Firewall>> {
    let mut command = Command::new("nft");
    command.args(["-j", "list", "table", "inet", TABLE]);
    command.kill_on_drop(true);
    let Ok(output) = in_time("nft", command.output()).await? else { return Ok(None) };
    if !output.status.success() {
        return Ok(None);
    }
    let listed: Value = serde_json::from_slice(&output.stdout).context("what nft prints")?;
    Ok(Some(understand(&listed)))
}

fn understand(listed: &Value) -> Firewall {
    let items = listed["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let comments: BTreeSet<&str> = items.iter().filter_map(|item| item["rule"]["comment"].as_str()).collect();
    let elements = items.iter().filter_map(|item| item["set"]["elem"].as_array()).flatten();
    let mut subnets: BTreeSet<IpNet> = elements.filter_map(prefix).collect();
    if !RULES.iter().all(|rule| comments.contains(rule)) {
        subnets.clear();
    }
    Firewall { subnets, drop_forwarded_v6: comments.contains(DROP_FORWARDED_V6) }
}

fn prefix(element: &Value) -> Option<IpNet> {
    let prefix = &element["prefix"];
    let (addr, len) = (prefix["addr"].as_str()?, prefix["len"].as_u64()?);
    IpNet::new(addr.parse().ok()?, u8::try_from(len).ok()?).ok()
}

fn script(firewall: &Firewall) -> String {
    let elements = |v4: bool| {
        let subnets = firewall.subnets.iter().filter(|subnet| subnet.addr().is_ipv4() == v4);
        let list: Vec<String> = subnets.map(ToString::to_string).collect();
        if list.is_empty() { String::new() } else { format!("elements = {{ {} }}", list.join(", ")) }
    };
    let drop_v6 = if firewall.drop_forwarded_v6 {
        format!(
            "meta nfproto ipv6 iifname != \"{HOST_INTERFACE}\" oifname != \"{HOST_INTERFACE}\" drop comment \"{DROP_FORWARDED_V6}\""
        )
    } else {
        String::new()
    };
    format!(
        r#"table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
    set v4 {{
        type ipv4_addr; flags interval; {v4}
    }}
    set v6 {{
        type ipv6_addr; flags interval; {v6}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr @v4 ip daddr != @v4 oifname != "{HOST_INTERFACE}" masquerade comment "masquerade v4"
        ip6 saddr @v6 ip6 daddr != @v6 oifname != "{HOST_INTERFACE}" masquerade comment "masquerade v6"
    }}
    chain forward {{
        type filter hook forward priority mangle; policy accept;
        oifname "{HOST_INTERFACE}" ct direction reply ct status snat meta mark set meta mark and {keep:#x} or {REPLY_MARK:#x} comment "reply"
        {drop_v6}
    }}
}}
"#,
        v4 = elements(true),
        v6 = elements(false),
        keep = !REPLY_MASK,
    )
}

/// Waits for a program, but not for ever.
async fn in_time<T>(program: &str, run: impl Future<Output = T>) -> Result<T> {
    let result = timeout(PATIENCE, run).await;
    result.map_err(|_| anyhow!("{program} did not end within {} s", PATIENCE.as_secs()))
}

async fn nft(script: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    let mut child = command.spawn().context(
        "cannot run nft, which masquerading needs; apt-get install nftables, or use --masquerade off",
    )?;
    let said = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = in_time("nft", said).await??;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The chain that an exception goes into, where iptables drops what is
/// forwarded: Docker's own for that purpose, else FORWARD itself.
pub async fn dropping_chain(v4: bool) -> Option<String> {
    let forward = iptables(v4, &["-S", "FORWARD"]).await.ok()?;
    if !forward.lines().any(|line| line == "-P FORWARD DROP") {
        return None;
    }
    let users = iptables(v4, &["-S", "DOCKER-USER"]).await.is_ok();
    Some(if users { "DOCKER-USER" } else { "FORWARD" }.into())
}

/// Our exceptions, wherever they are.
pub async fn accepts() -> Vec<Accept> {
    let chains = [(true, "DOCKER-USER"), (true, "FORWARD"), (false, "DOCKER-USER"), (false, "FORWARD")];
    let found = chains.map(|(v4, chain)| accepts_in(v4, chain));
    futures::future::join_all(found).await.concat()
}

async fn accepts_in(v4: bool, chain: &str) -> Vec<Accept> {
    let rules = iptables(v4, &["-S", chain]).await.unwrap_or_default();
    let accept = |direction| Accept { v4, chain: chain.into(), direction };
    let there = |accept: &Accept| {
        let rule = format!("-A {}", rule(accept).join(" "));
        rules.lines().any(|line| line.replace('"', "") == rule)
    };
    [Direction::In, Direction::Out].map(accept).into_iter().filter(there).collect()
}

/// Puts an exception before everything else in its chain, unless it is in it: who asks may
/// have read the chain before it was put there.
pub async fn put_accept(accept: &Accept) -> Result<()> {
    let rule = rule(accept);
    let check: Vec<&str> = ["-C"].into_iter().chain(rule.iter().copied()).collect();
    if iptables(accept.v4, &check).await.is_ok() {
        return Ok(());
    }
    let mut args = vec!["-I", &rule[0], "1"];
    args.extend(&rule[1..]);
    iptables(accept.v4, &args).await.map(drop)
}

/// Removes an exception, if it is there.
pub async fn remove_accept(accept: &Accept) -> Result<()> {
    let rule = rule(accept);
    let with = |verb| [verb].into_iter().chain(rule.iter().copied()).collect::<Vec<_>>();
    while iptables(accept.v4, &with("-C")).await.is_ok() {
        iptables(accept.v4, &with("-D")).await?;
    }
    Ok(())
}

fn rule(accept: &Accept) -> Vec<&str> {
    let flag = match accept.direction {
        Direction::In => "-i",
        Direction::Out => "-o",
    };
    vec![&accept.chain, flag, HOST_INTERFACE, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"]
}

async fn iptables(v4: bool, args: &[&str]) -> Result<String> {
    let program = if v4 { "iptables" } else { "ip6tables" };
    let mut command = Command::new(program);
    command.arg("-w").args(args).kill_on_drop(true);
    let output = in_time(program, command.output()).await?.context(program)?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_listing_parses_and_a_damaged_one_never_equals_the_wanted_one() {
        let rule = |comment: &str| serde_json::json!({"rule": {"comment": comment}});
        let set = serde_json::json!({"set": {"elem": [{"prefix": {"addr": "10.1.0.0", "len": 16}}]}});
        let whole = [rule("masquerade v4"), rule("masquerade v6"), rule("reply"), set.clone()];
        let found = understand(&serde_json::json!({ "nftables": whole }));
        assert_eq!(found.subnets, ["10.1.0.0/16".parse().expect("a literal")].into());
        assert!(!found.drop_forwarded_v6);
        let damaged = understand(&serde_json::json!({"nftables": [rule("reply"), set]}));
        assert!(damaged.subnets.is_empty());
    }
}
