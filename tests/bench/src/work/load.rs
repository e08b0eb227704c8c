//! Both ends of what no packaged tool does just so: single exchanges, requests, floods.
//! (sockperf does the latter two, and waits for two seconds before each second of them.)

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use clap::{Subcommand, ValueEnum};

use super::servers::{EXCHANGE, TCP_ECHO, UDP_ECHO};
use crate::stats::percentile;

/// Bytes of a message.
const MESSAGE: usize = 64;
/// First byte of a message that wants an answer.
const ANSWER: u8 = 1;
/// After how long a message or its answer is taken for lost.
const LOST: Duration = Duration::from_millis(200);
/// How many messages of a flood are sent between two looks at the clock.
const BURST: u32 = 32;

/// The shares that are told of times, in this order.
pub const SHARES: [f64; 5] = [0.25, 0.5, 0.75, 0.9, 0.99];

/// The two ends.
#[derive(Subcommand)]
pub enum Load {
    /// Answers, until it is ended
    Serve,
    /// Asks for a while, and prints how often, for how long (s), and how long each took (us)
    Ask {
        /// How
        kind: Kind,
        /// Who answers
        target: IpAddr,
        /// For how long
        milliseconds: u64,
    },
}

/// What is asked.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    /// Connect, exchange a byte, close
    Connections,
    /// One TCP message after the other, the next when the answer is there
    Tcp,
    /// The same by UDP
    Udp,
    /// UDP messages without an answer, as many as go
    Flood,
}

/// Plays one end.
pub fn run(load: &Load) -> io::Result<()> {
    match load {
        Load::Serve => serve(),
        Load::Ask { kind, target, milliseconds } => {
            let time = Duration::from_millis(*milliseconds);
            let target = |port| SocketAddr::new(*target, port);
            match kind {
                Kind::Connections => tell(time, || exchange(target(EXCHANGE))),
                Kind::Tcp => {
                    let mut stream = connect(target(TCP_ECHO))?;
                    tell(time, || round_trip(&mut stream))
                }
                Kind::Udp => {
                    let (target, mut number) = (target(UDP_ECHO), 0);
                    let socket = socket(target)?;
                    tell(time, || ask(&socket, target, &mut number))
                }
                Kind::Flood => {
                    let socket = socket(target(UDP_ECHO))?;
                    socket.connect(target(UDP_ECHO))?;
                    flood(&socket, time)
                }
            }
        }
    }
}

/// Does something again and again, and prints how often and how long it took. What was
/// lost on the way counts for the time alone.
fn tell(time: Duration, mut once: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < time {
        let start = Instant::now();
        if once()? {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    print!("{} {}", times.len(), begun.elapsed().as_secs_f64());
    SHARES.into_iter().for_each(|share| print!(" {}", percentile(times.clone(), share)));
    println!();
    Ok(())
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(1))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(target: SocketAddr) -> io::Result<bool> {
    let mut stream = connect(target)?;
    let mut byte = [1];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(true)
}

fn round_trip(stream: &mut TcpStream) -> io::Result<bool> {
    let mut message = [ANSWER; MESSAGE];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    Ok(true)
}

/// A socket of the target's family.
fn socket(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(LOST))?;
    Ok(socket)
}

/// Whether the answer to this very message came, from wherever: docker-proxy answers its own
/// host's containers from another address than the one that they asked.
fn ask(socket: &UdpSocket, target: SocketAddr, number: &mut u64) -> io::Result<bool> {
    *number += 1;
    let mut message = [ANSWER; MESSAGE];
    message[8..16].copy_from_slice(&number.to_ne_bytes());
    socket.send_to(&message, target)?;
    let mut answer = [0; MESSAGE];
    loop {
        match socket.recv(&mut answer) {
            Ok(_) if answer == message => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Sends, and prints how many went, and for how long (s).
fn flood(socket: &UdpSocket, time: Duration) -> io::Result<()> {
    let begun = Instant::now();
    let mut sent = 0_u64;
    while begun.elapsed() < time {
        for _ in 0..BURST {
            sent += u64::from(socket.send(&[0; MESSAGE]).is_ok());
        }
    }
    println!("{sent} {}", begun.elapsed().as_secs_f64());
    Ok(())
}

fn serve() -> io::Result<()> {
    let exchanges = TcpListener::bind(("::", EXCHANGE))?;
    let echo = TcpListener::bind(("::", TCP_ECHO))?;
    let datagrams = UdpSocket::bind(("::", UDP_ECHO))?;
    thread::scope(|scope| {
        scope.spawn(|| accept(&exchanges, answer));
        scope.spawn(|| accept(&echo, send_back));
        scope.spawn(|| take_in(&datagrams));
    });
    Ok(())
}

/// One connection after the other; a client that goes away in between is no reason to stop.
fn accept(listener: &TcpListener, serve: fn(TcpStream) -> io::Result<()>) {
    loop {
        drop(listener.accept().and_then(|(stream, _)| serve(stream)));
    }
}

/// The client closes first, so that its side waits for stragglers.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)?;
    stream.read(&mut byte).map(drop)
}

fn send_back(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

/// Takes datagrams in, and answers those that want it; what cannot be answered is lost.
fn take_in(socket: &UdpSocket) {
    let mut message = [0; MESSAGE];
    loop {
        if let Ok((bytes, from)) = socket.recv_from(&mut message)
            && message[0] == ANSWER
        {
            drop(socket.send_to(&message[..bytes], from));
        }
    }
}
