//! What a test needs and a machine may lack. Such a test is skipped, and the run reports it.

use std::{fs::File, io::Write, thread};

/// Names the file that lists skipped tests; `cargo xtask test` prints them at the end.
const TOLD_TO: &str = "MARGAY_TEST_SKIPPED";

/// Reports that the calling test is skipped, and why: one line in its output, and one for the
/// run's summary.
pub fn skip(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    println!("skipped: {test}: {why}");
    if let Some(path) = std::env::var_os(TOLD_TO) {
        let told = File::options().append(true).create(true).open(path);
        // One write for one line: others append at the same time.
        let told = told.and_then(|mut file| file.write_all(format!("{test}: {why}\n").as_bytes()));
        told.expect("the run's own file");
    }
}
