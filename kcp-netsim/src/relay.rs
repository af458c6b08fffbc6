//! The emulator between real sockets: clients on one side, a server on the other.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::LinkConfig;
use crate::link::{Link, LinkStats};

/// Clients at most; the one silent for longest makes room.
const MAX_CLIENTS: usize = 4096;
/// Datagrams under way in one direction at most: the relay's memory, not a feature of the path.
const MAX_FLYING: usize = 65_536;
const BUFFER: usize = 65_536;
/// Asked for in each direction of every socket: bursts are to be lost by the emulator's rules, not by the kernel.
const SOCKET_BUFFER: usize = 8 << 20;

/// What both directions have done.
#[derive(Copy, Clone, Debug, Default)]
#[non_exhaustive]
pub struct RelayStats {
    /// From clients to the server.
    pub up: LinkStats,
    /// From the server to clients.
    pub down: LinkStats,
    /// Clients known now.
    pub clients: usize,
}

/// Relays UDP between any number of clients and one server through two emulated links. Each client has a socket of its
/// own towards the server, as behind a NAT. Stops when dropped.
#[derive(Debug)]
pub struct UdpRelay {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    front: UdpSocket,
    upstream: SocketAddr,
    epoch: Instant,
    state: Mutex<State>,
    /// Something was put into a link whose pump may sleep past it.
    up_ready: Notify,
    down_ready: Notify,
}

#[derive(Debug)]
struct State {
    up: Link<(Arc<UdpSocket>, Vec<u8>)>,
    down: Link<(SocketAddr, Vec<u8>)>,
    clients: HashMap<SocketAddr, Client>,
}

#[derive(Debug)]
struct Client {
    socket: Arc<UdpSocket>,
    receiver: JoinHandle<()>,
    last_heard: Instant,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl UdpRelay {
    /// Starts relaying between `listen` and `upstream`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Those of binding.
    pub async fn bind(
        listen: SocketAddr,
        upstream: SocketAddr,
        up: LinkConfig,
        down: LinkConfig,
        seed: u64,
    ) -> io::Result<Self> {
        let front = roomy(UdpSocket::bind(listen).await?);
        let state = State {
            up: Link::new(up, seed),
            down: Link::new(down, seed ^ 0x5DEE_CE66_D1CE_4E5B),
            clients: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            front,
            upstream,
            epoch: Instant::now(),
            state: Mutex::new(state),
            up_ready: Notify::new(),
            down_ready: Notify::new(),
        });
        let tasks = vec![
            tokio::spawn(shared.clone().receive_from_clients()),
            tokio::spawn(shared.clone().pump_up()),
            tokio::spawn(shared.clone().pump_down()),
        ];
        Ok(Self { shared, tasks })
    }

    /// The address that clients send to.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.front.local_addr()
    }

    /// What has happened so far.
    #[must_use]
    pub fn stats(&self) -> RelayStats {
        let state = self.shared.lock();
        RelayStats { up: state.up.stats(), down: state.down.stats(), clients: state.clients.len() }
    }

    /// Cuts or heals both directions.
    pub fn set_partitioned(&self, partitioned: bool) {
        let mut state = self.shared.lock();
        state.up.set_partitioned(partitioned);
        state.down.set_partitioned(partitioned);
    }
}

/// As large buffers as the system allows.
fn roomy(socket: UdpSocket) -> UdpSocket {
    let options = socket2::SockRef::from(&socket);
    let _ = options.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = options.set_send_buffer_size(SOCKET_BUFFER);
    socket
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.lock().clients.clear();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    async fn receive_from_clients(self: Arc<Self>) {
        let mut buf = vec![0; BUFFER];
        loop {
            // A receive error is a peer's ICMP message; the relay goes on.
            let Ok((len, from)) = self.front.recv_from(&mut buf).await else { continue };
            let Some(socket) = self.client_socket(from).await else { continue };
            let mut state = self.lock();
            if state.up.in_flight() < MAX_FLYING {
                state.up.send(self.now(), (socket, buf[..len].to_vec()));
                drop(state);
                self.up_ready.notify_one();
            }
        }
    }

    /// The client's socket towards the server, opened at its first datagram.
    async fn client_socket(self: &Arc<Self>, from: SocketAddr) -> Option<Arc<UdpSocket>> {
        if let Some(client) = self.lock().clients.get_mut(&from) {
            client.last_heard = Instant::now();
            return Some(client.socket.clone());
        }
        let any: SocketAddr =
            if self.upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
        let socket = Arc::new(roomy(UdpSocket::bind(any).await.ok()?));
        socket.connect(self.upstream).await.ok()?;
        let receiver = tokio::spawn(self.clone().receive_from_server(from, socket.clone()));
        let mut state = self.lock();
        if state.clients.len() >= MAX_CLIENTS {
            let silent =
                state.clients.iter().min_by_key(|(_, client)| client.last_heard).map(|(addr, _)| *addr);
            silent.and_then(|addr| state.clients.remove(&addr));
        }
        let client = Client { socket: socket.clone(), receiver, last_heard: Instant::now() };
        state.clients.insert(from, client);
        Some(socket)
    }

    async fn receive_from_server(self: Arc<Self>, client: SocketAddr, socket: Arc<UdpSocket>) {
        let mut buf = vec![0; BUFFER];
        loop {
            let Ok(len) = socket.recv(&mut buf).await else { continue };
            let mut state = self.lock();
            if state.down.in_flight() < MAX_FLYING {
                state.down.send(self.now(), (client, buf[..len].to_vec()));
                drop(state);
                self.down_ready.notify_one();
            }
        }
    }

    async fn pump_up(self: Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lock();
                let now = self.now();
                while let Some((socket, packet)) = state.up.poll(now) {
                    // A full socket buffer is one more way to lose a packet.
                    let _ = socket.try_send(&packet);
                }
                state.up.next_due()
            };
            self.wait(next, &self.up_ready).await;
        }
    }

    async fn pump_down(self: Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lock();
                let now = self.now();
                while let Some((client, packet)) = state.down.poll(now) {
                    let _ = self.front.try_send_to(&packet, client);
                }
                state.down.next_due()
            };
            self.wait(next, &self.down_ready).await;
        }
    }

    /// Until a packet is due, or an earlier one may have been put in.
    async fn wait(&self, next: Option<Duration>, ready: &Notify) {
        match next {
            None => ready.notified().await,
            Some(due) => tokio::select! {
                () = sleep_until(self.epoch + due) => {}
                () = ready.notified() => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_get_their_own_answers() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let link = LinkConfig { delay: Duration::from_millis(2), ..LinkConfig::ideal() };
        let listen = "127.0.0.1:0".parse().unwrap();
        let upstream = server.local_addr().unwrap();
        let relay = UdpRelay::bind(listen, upstream, link.clone(), link, 1).await.unwrap();
        let addr = relay.local_addr().unwrap();
        let echo = tokio::spawn(async move {
            let mut buf = [0; 100];
            for _ in 0..2 {
                let (n, from) = server.recv_from(&mut buf).await.unwrap();
                server.send_to(&buf[..n], from).await.unwrap();
            }
        });
        let clients =
            [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
        for (client, data) in clients.iter().zip([b"one", b"two"]) {
            client.send_to(data, addr).await.unwrap();
        }
        for (client, data) in clients.iter().zip([b"one", b"two"]) {
            let mut buf = [0; 100];
            let (n, from) = tokio::time::timeout(Duration::from_secs(30), client.recv_from(&mut buf))
                .await
                .unwrap()
                .unwrap();
            assert_eq!((&buf[..n], from), (data.as_slice(), addr));
        }
        echo.await.unwrap();
        let stats = relay.stats();
        assert_eq!((stats.up.delivered, stats.down.delivered, stats.clients), (2, 2, 2));
    }
}
