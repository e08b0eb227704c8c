//! The servers of one namespace, which wait through the whole run.

use std::{fs, path::Path};

use margay_tests::{container::Namespace, eventually::eventually, process::Process};

/// iperf3.
pub const IPERF: u16 = 5201;
/// Requests by TCP.
pub const TCP_ECHO: u16 = 5202;
/// Requests and floods by UDP.
pub const UDP_ECHO: u16 = 5203;
/// Single exchanges.
pub const EXCHANGE: u16 = 5204;
/// nginx.
pub const HTTP: u16 = 5205;
/// What has to be published, of TCP.
pub const PORTS: [u16; 4] = [IPERF, TCP_ECHO, EXCHANGE, HTTP];
/// The same of UDP.
pub const UDP_PORTS: [u16; 1] = [UDP_ECHO];

/// Running servers.
pub struct Servers {
    all: Vec<Process>,
}

impl Servers {
    /// Starts them, and waits until they listen.
    pub fn start(namespace: &Namespace, dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a folder");
        // An exchange leaves an address behind that waits for stragglers; there
        // have to be enough of them for many.
        namespace.sysctl("net.ipv4.ip_local_port_range", "10000 65535");
        fs::write(dir.join("page"), [b'x'; 1024]).expect("a disk");
        fs::write(dir.join("nginx.conf"), nginx(dir)).expect("a disk");
        let own = std::env::current_exe().expect("a path");
        let commands = [
            format!("iperf3 -s -p {IPERF}"),
            format!("{} load serve", own.display()),
            format!("nginx -p {dir} -e stderr -c {dir}/nginx.conf", dir = dir.display()),
        ];
        let log = dir.join("servers.log");
        let all = commands.iter().map(|command| namespace.start(command, &log)).collect();
        eventually("the servers listen", || {
            let said = namespace.run("ss -lntuH");
            let missing =
                PORTS.iter().chain(&UDP_PORTS).find(|port| !said.out.contains(&format!(":{port} ")));
            missing.map_or(Ok(()), |port| {
                Err(format!("{port} in {}{}", said.out, fs::read_to_string(&log).unwrap_or_default()))
            })
        });
        Self { all }
    }

    /// Ties them to one processor, or lets them go.
    pub fn pin(&self, pinned: bool) {
        let cpus = if pinned { "1" } else { "0-1023" };
        for server in &self.all {
            // One processor only: there is nothing to tie to.
            drop(margay_tests::process::say(std::process::Command::new("taskset").args([
                "-acp",
                cpus,
                &server.id().to_string(),
            ])));
        }
    }
}

fn nginx(dir: &Path) -> String {
    format!(
        "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log stderr;
         events {{ worker_connections 256; }}
         http {{ access_log off; keepalive_requests 1000000;
                 client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
                 fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
                 server {{ listen {HTTP}; listen [::]:{HTTP}; root {dir}; }} }}",
        dir = dir.display()
    )
}
