//! The registry and its tombstones, against lists.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcp_core::{Seed, SessionConfig, Timestamp};

use crate::registry::{Filed, Key, Named, Registry};

struct Session {
    conv: u32,
    peer: Mutex<SocketAddr>,
}

impl Named for Session {
    fn key(&self) -> Key {
        (*self.peer.lock().unwrap(), self.conv)
    }

    fn conv(&self) -> u32 {
        self.conv
    }

    fn set_peer(&self, peer: SocketAddr) {
        *self.peer.lock().unwrap() = peer;
    }
}

/// Everything that the registry is asked to remember, in lists.
#[derive(Default)]
struct Lists {
    filed: Vec<(Key, Arc<Session>)>,
    roaming: Vec<Arc<Session>>,
    aliases: Vec<(Key, Arc<Session>)>,
    buried: Vec<(Key, Timestamp)>,
}

impl Lists {
    fn by_key<'a>(list: &'a [(Key, Arc<Session>)], key: &Key) -> Option<&'a Arc<Session>> {
        list.iter().find(|(held, _)| held == key).map(|(_, session)| session)
    }

    fn bury(&mut self, key: Key, now: Timestamp) {
        self.buried.retain(|(held, _)| *held != key);
        self.buried.push((key, now + Duration::from_secs(120)));
    }
}

fn same(one: Option<&Arc<Session>>, other: Option<&Arc<Session>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

#[test]
fn same_as_lists() {
    let config = Arc::new(SessionConfig::fast());
    let epitaph = kcp_core::Session::established(1, config, Seed::from_u64(1), Timestamp::ZERO).epitaph();
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let registry = Registry::<Session>::default();
        let mut lists = Lists::default();
        // All that ever were: what has ended may still be spoken of.
        let mut known: Vec<Arc<Session>> = Vec::new();
        let mut now = Timestamp::ZERO;
        let addr = |n: u8| SocketAddr::from(([10, 0, 0, n % 3], 1000 + u16::from(n / 3)));
        for step in 0..1000 {
            let (peer, conv) = (addr(rng.u8(0..9)), rng.u32(1..6));
            let any = known.get(rng.usize(0..known.len().max(1))).cloned();
            match (rng.u8(0..8), any) {
                (0..=1, _) => {
                    let session = Arc::new(Session { conv, peer: Mutex::new(peer) });
                    let limit = rng.usize(1..20);
                    let filed = registry.insert(&session, limit);
                    let expected = if Lists::by_key(&lists.filed, &(peer, conv)).is_some() {
                        Filed::Taken
                    } else if lists.filed.len() >= limit {
                        Filed::Full
                    } else {
                        lists.filed.push(((peer, conv), session.clone()));
                        Filed::Yes
                    };
                    assert_eq!(filed, expected, "seed {seed} step {step}");
                    known.push(session);
                }
                (2, Some(session)) => {
                    let is_filed = lists.filed.iter().any(|(_, held)| Arc::ptr_eq(held, &session));
                    if is_filed {
                        registry.may_roam(&session);
                        if !lists.roaming.iter().any(|held| held.conv == session.conv) {
                            lists.roaming.push(session);
                        }
                    }
                }
                (3, Some(session)) => {
                    let is_filed = lists.filed.iter().any(|(_, held)| Arc::ptr_eq(held, &session));
                    if is_filed {
                        registry.insert_alias((peer, 0), &session);
                        lists.aliases.retain(|(key, _)| *key != (peer, 0));
                        lists.aliases.push(((peer, 0), session));
                    }
                }
                (4, Some(session)) => {
                    let to = (peer, session.conv);
                    let moved = registry.rename(&session, peer);
                    let place = lists.filed.iter().position(|(_, held)| Arc::ptr_eq(held, &session));
                    let free = Lists::by_key(&lists.filed, &to).is_none();
                    assert_eq!(moved, free && place.is_some(), "seed {seed} step {step}");
                    if moved {
                        lists.filed[place.unwrap()].0 = to;
                        assert_eq!(session.key(), to);
                    }
                }
                (5..=6, Some(session)) => {
                    let alias = rng.bool().then_some((peer, 0));
                    let key = session.key();
                    registry.remove(&session, alias, now, epitaph);
                    lists.roaming.retain(|held| !Arc::ptr_eq(held, &session));
                    if let Some(alias) = alias
                        && Lists::by_key(&lists.aliases, &alias)
                            .is_some_and(|held| Arc::ptr_eq(held, &session))
                    {
                        lists.aliases.retain(|(held, _)| *held != alias);
                        lists.bury(alias, now);
                    }
                    let before = lists.filed.len();
                    lists.filed.retain(|(_, held)| !Arc::ptr_eq(held, &session));
                    if lists.filed.len() < before {
                        lists.bury(key, now);
                    }
                }
                _ => now += Duration::from_secs(rng.u64(0..60)),
            }
            assert_eq!((registry.len(), registry.is_empty()), (lists.filed.len(), lists.filed.is_empty()));
            let key = (addr(rng.u8(0..9)), rng.u32(0..6));
            let list = if key.1 == 0 { &lists.aliases } else { &lists.filed };
            assert!(same(registry.get(&key).as_ref(), Lists::by_key(list, &key)), "seed {seed} step {step}");
            let roamer = lists.roaming.iter().find(|held| held.conv == key.1);
            assert!(same(registry.roamer(key.1).as_ref(), roamer), "seed {seed} step {step}");
            let buried = lists.buried.iter().any(|&(held, until)| held == key && until > now);
            assert_eq!(registry.is_buried(&key, now), buried, "seed {seed} step {step}");
        }
        let mut all: Vec<Key> = lists.filed.iter().map(|(key, _)| *key).collect();
        all.sort_unstable();
        assert!(registry.all().iter().map(|session| session.key()).eq(all));
    }
}
