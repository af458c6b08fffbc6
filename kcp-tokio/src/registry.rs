//! Which session a datagram belongs to: (peer address, conv), and the tombstones of those that ended.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use kcp_core::Timestamp;
use kcp_core::admission::Epitaph;

use crate::session::Session;

/// A session's name: the address its peer is heard from, and the conversation id. Another conv from a known address
/// is another session, a known conv from another address is a stranger.
pub(crate) type Key = (SocketAddr, u32);

/// How long a session that ended is remembered, so that its late segments open no ghost.
const TOMBSTONE_TIME: Duration = Duration::from_secs(120);
/// How many are remembered; the oldest are forgotten first.
const MAX_TOMBSTONES: usize = 65_536;

/// The sessions of one socket. Keys are chosen by strangers, so the hash is keyed (`RandomState`). Guards of the map are
/// never held across a session's lock.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sessions: DashMap<Key, Arc<Session>, RandomState>,
    /// Sessions that could follow their peer to another address, by conv.
    roaming: DashMap<u32, Weak<Session>, RandomState>,
    /// Sessions, each counted once: the key of conv 0 is a second name of one.
    count: AtomicUsize,
    tombstones: Mutex<Tombstones>,
}

#[derive(Debug, Default)]
struct Tombstones {
    by_age: VecDeque<(Timestamp, Key)>,
    /// When to forget it, and what it left.
    graves: HashMap<Key, (Timestamp, Epitaph)>,
}

impl Registry {
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Session>> {
        self.sessions.get(key).map(|entry| entry.value().clone())
    }

    /// False when the key is taken.
    pub(crate) fn insert(&self, key: Key, session: &Arc<Session>) -> bool {
        match self.sessions.entry(key) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(session.clone());
                self.count.fetch_add(usize::from(key.1 != 0), Ordering::AcqRel);
                true
            }
        }
    }

    /// From now on the session can follow its peer; where two share a conv, the first can.
    pub(crate) fn may_roam(&self, session: &Arc<Session>) {
        match self.roaming.entry(session.conv) {
            Entry::Occupied(mut entry) if entry.get().upgrade().is_none() => {
                entry.insert(Arc::downgrade(session));
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(entry) => {
                entry.insert(Arc::downgrade(session));
            }
        }
    }

    /// The session that may have moved, if somebody unknown speaks of this conv.
    pub(crate) fn roamer(&self, conv: u32) -> Option<Arc<Session>> {
        self.roaming.get(&conv).and_then(|entry| entry.value().upgrade())
    }

    /// The session has a new name; false when that is taken.
    pub(crate) fn rename(&self, from: &Key, to: Key, session: &Arc<Session>) -> bool {
        match self.sessions.entry(to) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(session.clone());
                self.sessions.remove_if(from, |_, held| Arc::ptr_eq(held, session));
                true
            }
        }
    }

    /// Removes `session`, and only it: a late notice of an old session must not remove a new one of the same name.
    pub(crate) fn remove(&self, key: &Key, session: &Arc<Session>, now: Timestamp, epitaph: Epitaph) {
        self.roaming.remove_if(&key.1, |_, held| std::ptr::eq(held.as_ptr(), Arc::as_ptr(session)));
        if self.sessions.remove_if(key, |_, held| Arc::ptr_eq(held, session)).is_some() {
            self.count.fetch_sub(usize::from(key.1 != 0), Ordering::AcqRel);
            let mut tombstones = self.tombstones();
            let expiry = now + TOMBSTONE_TIME;
            tombstones.graves.insert(*key, (expiry, epitaph));
            tombstones.by_age.push_back((expiry, *key));
            tombstones.forget(now);
        }
    }

    /// Whether a session of this name has ended lately.
    pub(crate) fn is_buried(&self, key: &Key, now: Timestamp) -> bool {
        self.buried(key, now).is_some()
    }

    /// What a session of this name, which has ended lately, left.
    pub(crate) fn buried(&self, key: &Key, now: Timestamp) -> Option<Epitaph> {
        let mut tombstones = self.tombstones();
        tombstones.forget(now);
        tombstones.graves.get(key).map(|&(_, epitaph)| epitaph)
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each session once, in an order that does not depend on the hash.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        let named = self.sessions.iter().filter(|entry| entry.key().1 == entry.value().conv);
        let mut all: Vec<_> = named.map(|entry| (*entry.key(), entry.value().clone())).collect();
        all.sort_unstable_by_key(|&(key, _)| key);
        all.into_iter().map(|(_, session)| session).collect()
    }

    fn tombstones(&self) -> std::sync::MutexGuard<'_, Tombstones> {
        self.tombstones.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tombstones {
    fn forget(&mut self, now: Timestamp) {
        while let Some(&(expiry, key)) = self.by_age.front() {
            if expiry > now && self.by_age.len() <= MAX_TOMBSTONES {
                break;
            }
            self.by_age.pop_front();
            // Unless it was buried again since.
            if self.graves.get(&key).is_some_and(|grave| grave.0 == expiry) {
                self.graves.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        (SocketAddr::from(([127, 0, 0, 1], 1)), n)
    }

    fn bury(tombstones: &mut Tombstones, n: u32, now: Timestamp) {
        let config = Arc::new(kcp_core::SessionConfig::fast());
        let seed = kcp_core::Seed::from_u64(u64::from(n));
        let epitaph = kcp_core::Session::established(n, config, seed, now).epitaph();
        tombstones.graves.insert(key(n), (now + TOMBSTONE_TIME, epitaph));
        tombstones.by_age.push_back((now + TOMBSTONE_TIME, key(n)));
        tombstones.forget(now);
    }

    #[test]
    fn tombstones_expire_exactly_and_are_bounded() {
        let mut tombstones = Tombstones::default();
        bury(&mut tombstones, 1, Timestamp::ZERO);
        bury(&mut tombstones, 1, Timestamp::from_millis(60_000));
        tombstones.forget(Timestamp::from_millis(120_000));
        assert!(tombstones.graves.contains_key(&key(1)), "buried again since");
        tombstones.forget(Timestamp::from_micros(179_999_999));
        assert!(tombstones.graves.contains_key(&key(1)));
        tombstones.forget(Timestamp::from_millis(180_000));
        assert!(tombstones.graves.is_empty() && tombstones.by_age.is_empty());
        for n in 0..MAX_TOMBSTONES as u32 + 10 {
            bury(&mut tombstones, n, Timestamp::from_millis(200_000));
        }
        assert_eq!(tombstones.graves.len(), MAX_TOMBSTONES);
        assert!(!tombstones.graves.contains_key(&key(9)) && tombstones.graves.contains_key(&key(10)));
    }
}
