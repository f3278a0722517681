//! The client of IPFS's DHT beside servers that know each other: lookups, and what is found.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod dht_servers;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dht_servers::{Odd, Servers, addr, client, hashes, sleep, within};
use diai_blocks::{
    Block, BlockStore, FetchOptions, IpfsDht, IpfsDhtConfig, MemoryStore, RAW,
    bitswap::Bitswap,
    config::{ClientConfig, FetchConfig, ServerConfig},
    fetch::{Fetcher, provider_key},
    ipfs_dht::{DhtMessage, DhtPeer, Key, Kind, Lookup, MAX_CANDIDATES, REPLICATION},
};
use diai_core::{
    PeerId, World,
    memory::{AgentSpec, Sim},
    timeout_at,
};
use futures::StreamExt;

#[test]
fn servers_that_lie_are_silent_or_flood_do_not_keep_a_lookup_from_its_end() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 60, |number| match number % 6 {
            0 => Some(Odd::Say(vec![0xff; 40])),
            1 => Some(Odd::Say(vec![8; 1 << 20])),
            2 => {
                // Made-up peers, closer and closer.
                let closer = (0..=255).map(|last| {
                    let seed = [number, last, 7, 7].repeat(8);
                    let key = Block::new(RAW, Bytes::from(seed)).unwrap();
                    DhtPeer { peer: PeerId::from_multihash(*key.cid.hash()).unwrap(), addrs: vec![addr()] }
                });
                let mut answer = DhtMessage::new(Kind::FindNode, Bytes::new());
                answer.closer = closer.collect();
                Some(Odd::Say(answer.to_bytes()))
            }
            _ => None,
        });
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        world.network.connect(servers.peers[2], Vec::new()).await.unwrap();
        let announced = dht.announce(hashes(10)).await;
        assert_eq!((announced.keys, announced.failed), (10, 0), "{announced:?}");
    });
}

#[test]
fn whoever_reads_no_answers_keeps_nobody_from_looking() {
    let sim = Sim::new(8);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 30, |_| None);
        let world = client(&sim, 250);
        let config = IpfsDhtConfig { max_lookups: 1, ..IpfsDhtConfig::default() };
        let dht = IpfsDht::start(&world, &config);
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        let hashes = hashes(2);
        assert_eq!(dht.announce(hashes.clone()).await.keys, 2);
        let mut unread = dht.providers(hashes[0]);
        assert!(unread.next().await.is_some());
        let found = timeout_at(&*world.clock, within(&world, 5), dht.providers(hashes[1]).count()).await;
        assert_eq!(found, Ok(1));
        assert_eq!(unread.next().await, None, "the other ended long ago");
    });
}

#[test]
fn a_lookup_that_nobody_waits_for_any_more_makes_room_at_once() {
    let sim = Sim::new(9);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 3, |number| (number == 1).then_some(Odd::Mute));
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig { max_lookups: 1, ..IpfsDhtConfig::default() });
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        let hash = hashes(1)[0];
        let waiting = dht.providers(hash);
        sleep(&world, 1).await;
        drop(waiting);
        let begun = world.clock.now();
        world.network.connect(servers.peers[1], Vec::new()).await.unwrap();
        dht.provide(hash);
        while servers.told(&hash).len() < 2 {
            sleep(&world, 1).await;
        }
        assert!(world.clock.now().since(begun) < Duration::from_secs(13), "one silence of ten seconds is its own");
    });
}

/// Silent servers, and a provider that only the agents' own DHT names, after a while.
#[test]
fn a_slow_lookup_in_the_dht_of_ipfs_delays_none_in_the_agents_own() {
    let sim = Sim::new(11);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 60, |_| Some(Odd::Mute));
        let (alice, bob) = (sim.join(AgentSpec::example(249)), client(&sim, 250));
        for server in &servers.peers {
            bob.network.connect(*server, Vec::new()).await.unwrap();
        }
        let store = |world: &World| BlockStore::new(Arc::new(MemoryStore::new(1 << 20)), world.offload.clone());
        let (hers, his) = (store(&alice), store(&bob));
        let _serving = Bitswap::start(&alice, hers.clone(), ClientConfig::default(), ServerConfig::default()).unwrap();
        let bitswap = Bitswap::start(&bob, his.clone(), ClientConfig::default(), ServerConfig::default()).unwrap();
        let dht = IpfsDht::start(&bob, &IpfsDhtConfig::default());
        let fetcher = Fetcher::new(bob.clone(), his, bitswap, FetchConfig::default()).with_ipfs_dht(Some(dht));
        let block = Block::new(RAW, Bytes::from_static(b"rare")).unwrap();
        hers.put(block.clone()).await.unwrap();
        let begun = bob.clock.now();
        let options = FetchOptions::until(within(&bob, 300));
        let (fetched, ()) = futures::join!(fetcher.block(block.cid, &options), async {
            sleep(&alice, 12).await;
            alice.dht.provide(provider_key(&block.cid).unwrap()).await.unwrap();
        });
        assert_eq!(fetched.unwrap(), block.data);
        let took = bob.clock.now().since(begun);
        assert!(took < Duration::from_secs(35), "{took:?}");
    });
}

#[test]
fn a_message_has_the_bytes_that_go_gives_it() {
    let mut message = DhtMessage::new(Kind::AddProvider, Bytes::from_static(&[0x12, 0x02, 0xaa, 0xbb]));
    message
        .providers
        .push(DhtPeer { peer: AgentSpec::example(1).peer, addrs: vec!["/ip4/10.0.0.1/tcp/1".parse().unwrap()] });
    let bytes = message.to_bytes();
    let peer = AgentSpec::example(1).peer.to_bytes();
    let inner = [&[0x0a, peer.len() as u8][..], &peer, &[0x12, 8, 4, 10, 0, 0, 1, 6, 0, 1, 0x18, 1]].concat();
    let golden = [&[8, 2, 0x12, 4, 0x12, 2, 0xaa, 0xbb, 0x4a, inner.len() as u8][..], &inner].concat();
    assert_eq!(bytes, golden);
    assert_eq!(DhtMessage::from_bytes(bytes.into()), Ok(message));
    for bad in [&[8, 9][..], &[8, 4, 0x12], &[0x42, 200, 1]] {
        assert!(DhtMessage::from_bytes(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn a_lookup_asks_ten_at_a_time_and_keeps_few_in_sight() {
    let local = AgentSpec::example(250).peer;
    let peers: Vec<_> = (0..=249).map(|number| AgentSpec::example(number).peer).collect();
    let mut lookup = Lookup::new(Key::of(b"key"), local, REPLICATION, peers.clone().into_iter().take(1).chain([local]));
    let first = lookup.next_peer().unwrap();
    assert_eq!((first, lookup.next_peer()), (peers[0], None));
    lookup.answered(&first, peers.iter().copied());
    let asked: Vec<_> = std::iter::from_fn(|| lookup.next_peer()).collect();
    assert_eq!(asked.len(), 10);
    assert!(!lookup.is_done());
    for peer in &asked {
        lookup.failed(peer);
    }
    let mut rounds = 0;
    while let Some(peer) = lookup.next_peer() {
        lookup.answered(&peer, peers.iter().copied());
        rounds += 1;
    }
    assert!(lookup.is_done() && rounds <= MAX_CANDIDATES);
    assert!(lookup.closest().count() >= REPLICATION);
    assert_eq!(lookup.silent().count(), 10);
}
