//! Connect, one exchange of a byte, close: a client and a server of our own,
//! since no packaged tool does just this.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use clap::Subcommand;

use super::{Client, Done, P50, P99, RATE, SECONDS, Sample, servers::EXCHANGE};
use crate::stats::percentile;

/// The two ends.
#[derive(Subcommand)]
pub enum Load {
    /// Answers, until it is ended
    Serve,
    /// Asks for a while, and prints how often and how long
    Ask {
        /// Who answers
        target: IpAddr,
        /// For how many seconds
        seconds: u32,
    },
}

/// Plays one end.
pub fn run(load: &Load) -> std::io::Result<()> {
    match load {
        Load::Serve => serve(),
        Load::Ask { target, seconds } => ask(*target, Duration::from_secs((*seconds).into())),
    }
}

fn serve() -> std::io::Result<()> {
    let listener = TcpListener::bind(("::", EXCHANGE))?;
    loop {
        // A client that goes away in between is no reason to stop.
        drop(listener.accept().and_then(|(stream, _)| answer(stream)));
    }
}

/// The client closes first, so that its side waits for stragglers.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)?;
    stream.read(&mut byte).map(drop)
}

fn ask(target: IpAddr, time: Duration) -> std::io::Result<()> {
    let target = SocketAddr::new(target, EXCHANGE);
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < time {
        let start = Instant::now();
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(1))?;
        stream.set_nodelay(true)?;
        let mut byte = [1];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        drop(stream);
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    println!("{rate} {} {}", percentile(times.clone(), 0.5), percentile(times, 0.99));
    Ok(())
}

/// Has the client ask for a while.
pub fn measure(client: &Client<'_>) -> Result<Done, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let said = client.run(&format!("{} load ask {} {SECONDS}", own.display(), client.way.target))?;
    let numbers: Vec<f64> = said.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let [rate, p50, p99] = numbers[..] else { return Err(format!("it said {said:?}")) };
    Ok((Sample::from([(RATE, rate), (P50, p50), (P99, p99)]), rate * f64::from(SECONDS) / 1e6))
}
