//! TCP's congestion controls for network namespaces: the kernel lets them choose among
//! those that the machine allows, which are its own default and Reno unless somebody has
//! said more.

use std::{
    fs,
    process::{Command, Stdio},
};

/// The machine's lists, which only its first network namespace may change.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// What the machine allowed before, which it gets back at the end.
pub struct Allowed {
    before: Option<String>,
}

/// Allows all that there are while the value lives, for a bench of these words that
/// sends streams. Where that cannot be, the bench goes on with the machine's own and
/// says so.
pub fn allow_for(words: &[String]) -> Allowed {
    if !sends_streams(words) {
        return Allowed { before: None };
    }
    // One that is a module is in the list once it is loaded; one that is none is there.
    let module = format!("tcp_{}", named(words));
    drop(Command::new("modprobe").args(["--quiet", &module]).stderr(Stdio::null()).status());
    let read = |list| fs::read_to_string(list).ok();
    Allowed { before: read(ALLOWED).zip(read(AVAILABLE)).and_then(|(before, there)| widen(before, &there)) }
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

/// What was allowed, if that had to be changed.
fn widen(before: String, there: &str) -> Option<String> {
    let all = missing(&before, there).then(|| there.trim())?;
    match fs::write(ALLOWED, all) {
        Ok(()) => {
            println!("bench: {ALLOWED} is {all:?} until the end (it was {:?})", before.trim());
            Some(before)
        }
        Err(error) => {
            println!("bench: {ALLOWED}: {error}");
            None
        }
    }
}

/// Whether something that is there is not allowed.
fn missing(allowed: &str, there: &str) -> bool {
    there.split_whitespace().any(|name| allowed.split_whitespace().all(|allowed| allowed != name))
}

impl Drop for Allowed {
    fn drop(&mut self) {
        if let Some(before) = self.before.take()
            && let Err(error) = fs::write(ALLOWED, before)
        {
            println!("bench: {ALLOWED}: {error}");
        }
    }
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
