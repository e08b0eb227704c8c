//! TCP's congestion controls for network namespaces: the kernel lets them choose among
//! those that the machine allows, which are its own default and Reno unless somebody has
//! said more.

use std::fs;

/// The machine's lists, which only its first network namespace has.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// What the machine allowed before, which it gets back at the end.
pub struct Allowed {
    before: Option<String>,
}

/// Allows all that there are while the value lives. Where that cannot be, the bench goes
/// on with the machine's own and says so.
pub fn allow_all() -> Allowed {
    let read = |list| fs::read_to_string(list).ok();
    Allowed { before: read(ALLOWED).zip(read(AVAILABLE)).and_then(|(before, there)| widen(before, &there)) }
}

/// What was allowed, if that had to be changed.
fn widen(before: String, there: &str) -> Option<String> {
    let all = missing(&before, there).then(|| there.trim())?;
    println!("bench: {ALLOWED}: {all} until the end, so that all candidates can have the same");
    match fs::write(ALLOWED, all) {
        Ok(()) => Some(before),
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
    use super::missing;

    #[test]
    fn what_is_allowed_already_is_left_alone() {
        assert!(missing("reno bbr\n", "reno bbr cubic\n"));
        assert!(!missing("cubic reno\n", "reno cubic\n"));
    }
}
