//! What a test needs and a machine may lack: then it is skipped, and that is told.

use std::{fs::File, io::Write, thread};

/// Names the file that skipped tests are told to: `cargo xtask test` tells of them at the end.
const TOLD_TO: &str = "MARGAY_TEST_SKIPPED";

/// Tells that the calling test cannot be done here, and why: a line of its own for who reads
/// its output, and one for the run's summary.
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
