//! Which session a datagram belongs to: (peer address, conv), and the tombstones of those that ended.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use kcp_core::Timestamp;
use kcp_core::admission::Epitaph;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, lock};

/// A session's name: the address its peer is heard from, and the conversation id. Another conv from a known address
/// is another session, a known conv from another address is a stranger.
pub(crate) type Key = (SocketAddr, u32);

/// How long a session that ended is remembered, so that its late segments open no ghost.
const TOMBSTONE_TIME: Duration = Duration::from_secs(120);
/// How many are remembered; the oldest are forgotten first.
const MAX_TOMBSTONES: usize = 65_536;
/// Parts of the tables, each with a lock: drivers and dialling tasks rarely meet, and a table that grows stops few.
const PARTS: usize = 16;

/// The sessions of one endpoint, whichever of its sockets hears of them. Keys are chosen by strangers, so the hash is keyed
/// (`RandomState`). The tables hold sessions alone: their names are in them already. Guards of the tables are never held
/// across a session's lock.
#[derive(Debug)]
pub(crate) struct Registry<T, S = RandomState> {
    hash: S,
    /// By name.
    named: [Mutex<HashTable<Arc<T>>>; PARTS],
    /// Sessions that could follow their peer to another address, by conv.
    roaming: [Mutex<HashTable<Arc<T>>>; PARTS],
    /// Second names, of conv 0: peers that leave the choice of the conv to us.
    aliases: Mutex<HashMap<Key, Arc<T>>>,
    /// Sessions, each counted once.
    count: AtomicUsize,
    tombstones: Mutex<Tombstones>,
}

#[derive(Debug, Default)]
struct Tombstones {
    by_age: VecDeque<(Timestamp, Key)>,
    /// When to forget it, and what it left.
    graves: HashMap<Key, (Timestamp, Epitaph)>,
}

/// The part of a table that a hash belongs to. Its lowest bits and its highest choose within the part.
const fn part(hash: u64) -> usize {
    (hash >> 48) as usize % PARTS
}

/// What the registry needs to know of a session.
pub(crate) trait Named {
    /// Changes only by [`set_peer`](Self::set_peer).
    fn key(&self) -> Key;
    fn conv(&self) -> u32;
    /// For the registry, which files it anew.
    fn set_peer(&self, peer: SocketAddr);
}

/// What came of filing a session.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filed {
    Yes,
    /// Another session has this name.
    Taken,
    /// There are as many as there may be.
    Full,
}

impl<T, S: Default> Default for Registry<T, S> {
    fn default() -> Self {
        Self {
            hash: S::default(),
            named: Default::default(),
            roaming: Default::default(),
            aliases: Mutex::default(),
            count: AtomicUsize::new(0),
            tombstones: Mutex::default(),
        }
    }
}

impl<T: Named, S: BuildHasher> Registry<T, S> {
    fn hash(&self, key: &Key) -> u64 {
        let (addr, conv) = key;
        let rest = u64::from(addr.port()) << 32 | u64::from(*conv);
        // In few writes, since the hash takes as long for each as for its bytes.
        match addr.ip() {
            IpAddr::V4(ip) => self.hash.hash_one(u128::from(ip.to_bits()) << 64 | u128::from(rest)),
            IpAddr::V6(ip) => self.hash.hash_one((ip.to_bits(), rest)),
        }
    }

    fn name_hash(&self, session: &T) -> u64 {
        self.hash(&session.key())
    }

    fn conv_hash(&self, conv: u32) -> u64 {
        self.hash.hash_one(conv)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<T>> {
        if key.1 == 0 {
            return lock(&self.aliases).get(key).cloned();
        }
        let hash = self.hash(key);
        lock(&self.named[part(hash)]).find(hash, |held| held.key() == *key).cloned()
    }

    /// Files a session under its name, if there are fewer than `limit`. Its caller holds the session's lock if anything else is
    /// to be done before others may end it.
    pub(crate) fn insert(&self, session: &Arc<T>, limit: usize) -> Filed {
        let key = session.key();
        let hash = self.hash(&key);
        let mut named = lock(&self.named[part(hash)]);
        match named.entry(hash, |held| held.key() == key, |held| self.name_hash(held)) {
            Entry::Occupied(_) => Filed::Taken,
            Entry::Vacant(entry) => {
                if self.count.fetch_add(1, Ordering::AcqRel) >= limit {
                    self.count.fetch_sub(1, Ordering::AcqRel);
                    return Filed::Full;
                }
                entry.insert(session.clone());
                Filed::Yes
            }
        }
    }

    /// A second name of a session, of conv 0.
    pub(crate) fn insert_alias(&self, alias: Key, session: &Arc<T>) {
        lock(&self.aliases).insert(alias, session.clone());
    }

    /// From now on the session can follow its peer; where two share a conv, the first can.
    pub(crate) fn may_roam(&self, session: &Arc<T>) {
        let hash = self.conv_hash(session.conv());
        let mut roaming = lock(&self.roaming[part(hash)]);
        let entry =
            roaming.entry(hash, |held| held.conv() == session.conv(), |held| self.conv_hash(held.conv()));
        entry.or_insert_with(|| session.clone());
    }

    /// The session that may have moved, if somebody unknown speaks of this conv.
    pub(crate) fn roamer(&self, conv: u32) -> Option<Arc<T>> {
        let hash = self.conv_hash(conv);
        lock(&self.roaming[part(hash)]).find(hash, |held| held.conv() == conv).cloned()
    }

    /// The session's peer is at another address from now on; false when that name is taken, or the session
    /// is not filed any more.
    pub(crate) fn rename(&self, session: &Arc<T>, to: SocketAddr) -> bool {
        let new = (to, session.conv());
        let (from_hash, to_hash) = (self.name_hash(session), self.hash(&new));
        let (from_part, to_part) = (part(from_hash), part(to_hash));
        // Both at once, and in one order: nobody may see a session under a hash that is not its name's.
        let mut first = lock(&self.named[from_part.min(to_part)]);
        let mut second = (from_part != to_part).then(|| lock(&self.named[from_part.max(to_part)]));
        let (from_table, to_table) = match &mut second {
            None => (&mut *first, None),
            Some(second) if from_part < to_part => (&mut *first, Some(&mut **second)),
            Some(second) => (&mut **second, Some(&mut *first)),
        };
        let taken = |table: &HashTable<Arc<T>>| table.find(to_hash, |held| held.key() == new).is_some();
        if taken(to_table.as_deref().unwrap_or(from_table)) {
            return false;
        }
        let Ok(entry) = from_table.find_entry(from_hash, |held| Arc::ptr_eq(held, session)) else {
            return false;
        };
        entry.remove();
        session.set_peer(to);
        to_table.unwrap_or(from_table).insert_unique(to_hash, session.clone(), |held| self.name_hash(held));
        true
    }

    /// Removes `session`, and only it: a late notice of an old session must not remove a new one of the same name.
    pub(crate) fn remove(&self, session: &Arc<T>, alias: Option<Key>, now: Timestamp, epitaph: Epitaph) {
        let hash = self.conv_hash(session.conv());
        if let Ok(entry) = lock(&self.roaming[part(hash)]).find_entry(hash, |held| Arc::ptr_eq(held, session))
        {
            entry.remove();
        }
        if let Some(alias) = alias {
            let mut aliases = lock(&self.aliases);
            if aliases.get(&alias).is_some_and(|held| Arc::ptr_eq(held, session)) {
                aliases.remove(&alias);
                drop(aliases);
                lock(&self.tombstones).bury(alias, now, epitaph);
            }
        }
        let key = session.key();
        let hash = self.hash(&key);
        let removed = {
            let mut named = lock(&self.named[part(hash)]);
            named.find_entry(hash, |held| Arc::ptr_eq(held, session)).map(|entry| entry.remove()).is_ok()
        };
        if removed {
            self.count.fetch_sub(1, Ordering::AcqRel);
            lock(&self.tombstones).bury(key, now, epitaph);
        }
    }

    /// Whether a session of this name has ended lately.
    pub(crate) fn is_buried(&self, key: &Key, now: Timestamp) -> bool {
        self.buried(key, now).is_some()
    }

    /// What a session of this name, which has ended lately, left.
    pub(crate) fn buried(&self, key: &Key, now: Timestamp) -> Option<Epitaph> {
        let mut tombstones = lock(&self.tombstones);
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
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        let mut all = Vec::with_capacity(self.len());
        for part in &self.named {
            all.extend(lock(part).iter().cloned());
        }
        all.sort_by_cached_key(|session| session.key());
        all
    }
}

impl Tombstones {
    fn bury(&mut self, key: Key, now: Timestamp, epitaph: Epitaph) {
        let expiry = now + TOMBSTONE_TIME;
        self.graves.insert(key, (expiry, epitaph));
        self.by_age.push_back((expiry, key));
        self.forget(now);
    }

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
        tombstones.bury(key(n), now, epitaph);
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
