//! TCP's congestion controls for network namespaces: the kernel lets them choose among
//! those that the machine allows, which are its own default and Reno unless somebody has
//! said more.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::lent::Lent;

/// The machine's lists, which only its first network namespace may change.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// Allows all that there are while the value lives, for a bench of these words that
/// sends streams. Where that cannot be, the bench goes on with the machine's own, and
/// its report says so.
pub fn allow_for(words: &[String]) -> Option<Lent> {
    if !sends_streams(words) {
        return None;
    }
    // One that is a module is in the list once it is loaded; one that is none is there.
    let module = format!("tcp_{}", named(words));
    drop(Command::new("modprobe").args(["--quiet", &module]).stderr(Stdio::null()).status());
    let read = |list| fs::read_to_string(list).ok();
    let (allowed, there) = (read(ALLOWED)?, read(AVAILABLE)?);
    missing(&allowed, &there).then(|| Lent::set(ALLOWED, there.trim())).flatten()
}

/// Whether it is the comparison or that of scale.
fn sends_streams(words: &[String]) -> bool {
    words.first().is_none_or(|word| word.starts_with('-') || word == "scale")
}

/// The one that is asked for.
fn named(words: &[String]) -> &str {
    const FLAG: &str = "--congestion";
    let behind = words.iter().position(|word| word == FLAG).and_then(|i| words.get(i + 1));
    let joined = || words.iter().find_map(|word| word.strip_prefix(FLAG)?.strip_prefix('='));
    behind.map(String::as_str).or_else(joined).unwrap_or("cubic")
}

/// Whether something that is there is not allowed.
fn missing(allowed: &str, there: &str) -> bool {
    there.split_whitespace().any(|name| allowed.split_whitespace().all(|allowed| allowed != name))
}

#[cfg(test)]
mod tests {
    use super::{missing, named, sends_streams};

    #[test]
    fn what_is_allowed_already_is_left_alone() {
        assert!(missing("reno bbr\n", "reno bbr cubic\n"));
        assert!(!missing("cubic reno\n", "reno cubic\n"));
    }

    #[test]
    fn words_tell_which_one_and_whether() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(named(&words("--quick")), "cubic");
        assert_eq!(named(&words("--quick --congestion bbr")), "bbr");
        assert_eq!(named(&words("--congestion=reno --quick")), "reno");
        assert!(
            sends_streams(&words("")) && sends_streams(&words("--quick")) && sends_streams(&words("scale"))
        );
        assert!(!sends_streams(&words("xdp")));
    }
}
