//! Settings of the whole machine that a bench needs otherwise.

use std::fs;

/// A setting that has its former value again once this is dropped; not if the process is
/// killed, so what it was is printed.
pub struct Lent {
    path: &'static str,
    before: String,
}

impl Lent {
    /// Writes another value into a file of the kernel's, and says so, or why not.
    pub fn set(path: &'static str, value: &str) -> Option<Self> {
        let changed = fs::read_to_string(path).and_then(|before| fs::write(path, value).map(|()| before));
        match changed {
            Ok(before) => {
                println!("bench: {path} is {value:?} until the end (it was {:?})", before.trim());
                Some(Self { path, before })
            }
            Err(error) => {
                println!("bench: {path}: {error}");
                None
            }
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.path, &self.before) {
            println!("bench: {} stays as it is: {error}", self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lent_is_given_back() {
        let file = std::env::temp_dir().join(format!("margay-lent-{}", std::process::id()));
        fs::write(&file, "0\n").expect("a file");
        let path: &'static str = file.to_str().expect("text").to_owned().leak();
        let lent = Lent::set(path, "200000");
        let meanwhile = fs::read_to_string(&file);
        drop(lent);
        let after = fs::read_to_string(&file);
        fs::remove_file(&file).expect("our own file");
        assert_eq!((meanwhile.expect("it"), after.expect("it")), ("200000".into(), "0\n".into()));
        assert!(Lent::set("/nowhere", "1").is_none());
    }
}
