//! A path between two namespaces: a TUN device in each, and a thread that carries packets from one to the other through two
//! emulated links.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kcp_netsim::{Link, LinkConfig, LinkStats};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::namespace::Namespace;

/// Packets taken from a device before the other one has its turn.
const BATCH: usize = 64;
/// Packets under way in one direction at most: the emulator's memory, not a feature of the path.
const MAX_FLYING: usize = 65_536;
/// The longest sleep, so that the thread notices that it is to end.
const NAP: Duration = Duration::from_millis(20);
/// Packets that the kernel holds for the thread, which it may not get to run for a while.
const QUEUE: &str = "10000";

/// What both directions have done: IP packets and bytes.
#[derive(Copy, Clone, Debug, Default)]
#[non_exhaustive]
pub struct PathStats {
    /// From left to right.
    pub right: LinkStats,
    /// From right to left.
    pub left: LinkStats,
}

impl PathStats {
    /// Packets put in, in both directions.
    #[must_use]
    pub const fn packets(&self) -> u64 {
        self.right.sent + self.left.sent
    }

    /// Bytes put in, in both directions, with IP headers.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.right.bytes + self.left.bytes
    }

    /// Packets lost by the loss rule.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.right.lost + self.left.lost
    }
}

/// A point-to-point path between two namespaces, mtu 1500, IPv4. Ends when dropped.
#[derive(Debug)]
pub struct Path {
    shared: Arc<Shared>,
    addresses: [Ipv4Addr; 2],
    interface: String,
    pump: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// To the right, to the left.
    links: Mutex<[Link<Vec<u8>>; 2]>,
    stop: AtomicBool,
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, [Link<Vec<u8>>; 2]> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Path {
    /// Joins two namespaces; `seed` decides the fate of every packet.
    ///
    /// # Errors
    /// When a device cannot be made or set up.
    pub fn new(left: &Namespace, right: &Namespace, config: LinkConfig, seed: u64) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (interface, base) = (format!("lab{number}"), 4 * (number % 16_384));
        let addresses =
            [1, 2].map(|host| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 77, 0, 0)) + base + host));
        let open = |namespace: &Namespace, own: Ipv4Addr, other: Ipv4Addr| {
            let device =
                namespace.run(|| DeviceBuilder::new().name(&interface).enable(false).build_sync())?;
            device.set_nonblocking(true)?;
            let (own, other) = (own.to_string(), other.to_string());
            namespace.ip(&["address", "add", &own, "peer", &other, "dev", &interface])?;
            namespace.ip(&["link", "set", &interface, "mtu", "1500", "txqueuelen", QUEUE, "up"])?;
            Ok::<_, io::Error>(device)
        };
        let devices = [open(left, addresses[0], addresses[1])?, open(right, addresses[1], addresses[0])?];
        let links = [Link::new(config.clone(), seed), Link::new(config, seed ^ 0x5DEE_CE66_D1CE_4E5B)];
        let shared = Arc::new(Shared { links: Mutex::new(links), stop: AtomicBool::new(false) });
        let pump = {
            let shared = shared.clone();
            std::thread::Builder::new().name(interface.clone()).spawn(move || pump(&shared, &devices))?
        };
        Ok(Self { shared, addresses, interface, pump: Some(pump) })
    }

    /// The address at the left end.
    #[must_use]
    pub const fn left(&self) -> Ipv4Addr {
        self.addresses[0]
    }

    /// The address at the right end.
    #[must_use]
    pub const fn right(&self) -> Ipv4Addr {
        self.addresses[1]
    }

    /// The name of the device, the same at both ends.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Changes what happens to packets from now on, in both directions.
    pub fn set_config(&self, config: &LinkConfig) {
        for link in &mut *self.shared.links() {
            link.set_config(config.clone());
        }
    }

    /// While partitioned, everything put in is lost; what flies arrives.
    pub fn set_partitioned(&self, partitioned: bool) {
        for link in &mut *self.shared.links() {
            link.set_partitioned(partitioned);
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn stats(&self) -> PathStats {
        let links = self.shared.links();
        PathStats { right: links[0].stats(), left: links[1].stats() }
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take() {
            let _ = pump.join();
        }
    }
}

fn pump(shared: &Shared, devices: &[SyncDevice; 2]) {
    // The kernel rounds sleeps up by 50 us otherwise.
    let _ = nix::sys::prctl::set_timerslack(1000);
    let epoch = Instant::now();
    let mut buf = vec![0; 65_536];
    let mut due = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let mut nap = NAP;
        let mut more = false;
        for direction in [0, 1] {
            let now = epoch.elapsed();
            {
                let mut links = shared.links();
                let link = &mut links[direction];
                for _ in 0..BATCH {
                    // Fails while the device is down: it has nothing to carry then either.
                    let Ok(n) = devices[direction].recv(&mut buf) else { break };
                    let packet = &buf[..n];
                    if packet.first().is_some_and(|byte| byte >> 4 == 4) && link.in_flight() < MAX_FLYING {
                        link.send(epoch.elapsed(), packet.to_vec());
                    }
                    more = true;
                }
                while due.len() < BATCH
                    && let Some(packet) = link.poll(now)
                {
                    due.push(packet);
                }
                match link.next_due().map(|at| at.saturating_sub(epoch.elapsed())) {
                    Some(Duration::ZERO) => more = true,
                    Some(wait) => nap = nap.min(wait),
                    None => {}
                }
            }
            for packet in due.drain(..) {
                // A device that is down takes nothing: the packet is lost, as on a cable that is not plugged in.
                let _ = devices[1 - direction].send(&packet);
            }
        }
        if more {
            continue;
        }
        let mut fds = devices.each_ref().map(|device| PollFd::new(device.as_fd(), PollFlags::POLLIN));
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(nap)), None);
        if fds.iter().any(|fd| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLERR))) {
            // The namespace, and with it the device, is gone: that must not keep the processor busy.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
