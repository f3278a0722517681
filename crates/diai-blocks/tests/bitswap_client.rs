//! The client machine of Bitswap where it does more than ask once: second requests, and what is not asked again.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use diai_blocks::{
    Block, RAW,
    bitswap::{ClientInput, ClientMachine, ClientOutput, Presence, WantKind},
    config::ClientConfig,
};
use diai_core::{Footprint, Instant, PeerId, memory::AgentSpec};

fn block(text: &str) -> Block {
    Block::new(RAW, Bytes::from(text.to_owned())).unwrap()
}

fn peer(number: u8) -> PeerId {
    AgentSpec::example(number).peer
}

struct Hand {
    machine: ClientMachine,
    now: Instant,
}

impl Hand {
    fn new(peers: u8) -> Self {
        let mut hand = Self { machine: ClientMachine::new(ClientConfig::default()), now: Instant::from_nanos(1) };
        (1..=peers).for_each(|number| hand.say(ClientInput::Connected(peer(number))));
        hand
    }

    fn say(&mut self, input: ClientInput) {
        self.machine.handle(self.now, input);
    }

    fn outputs(&mut self) -> Vec<ClientOutput> {
        let mut outputs = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            if let ClientOutput::Send { peer, .. } = &output {
                self.say(ClientInput::Sent(*peer));
            }
            outputs.push(output);
        }
        outputs
    }

    /// Who was sent a want-block for `cid`, and who a want-have.
    fn asked(&mut self, cid: Cid) -> (Vec<PeerId>, Vec<PeerId>) {
        let (mut blocks, mut haves) = (Vec::new(), Vec::new());
        for output in self.outputs() {
            let ClientOutput::Send { peer, wants } = output else { continue };
            for want in wants.iter().filter(|want| want.cid == cid && !want.cancel) {
                assert!(want.send_dont_have);
                if want.kind == WantKind::Block { blocks.push(peer) } else { haves.push(peer) }
            }
        }
        (blocks, haves)
    }

    fn presence(&mut self, from: PeerId, cid: Cid, have: bool) {
        self.say(ClientInput::Received { peer: from, blocks: vec![], presences: vec![Presence { cid, have }] });
    }

    fn block(&mut self, from: PeerId, cid: Cid) {
        self.say(ClientInput::Received { peer: from, blocks: vec![(cid, 5)], presences: vec![] });
    }

    fn timeout(&mut self) {
        self.now = self.machine.poll_timeout().unwrap();
        self.say(ClientInput::Timeout);
    }
}

/// Wants and blocks by turns, so that the time that each peer takes is known and there is something to spend.
fn acquaint(hand: &mut Hand, session: u64, millis: u64, rounds: u64) {
    for round in 0..rounds {
        let cid = block(&format!("to get acquainted {session} {round}")).cid;
        hand.say(ClientInput::Want { session, cids: vec![cid] });
        let (blocks, _) = hand.asked(cid);
        hand.now = hand.now + Duration::from_millis(millis);
        hand.say(ClientInput::Received { peer: blocks[0], blocks: vec![(cid, 100_000)], presences: vec![] });
        hand.outputs();
    }
}

/// Two peers that both have what session 1 wants, the first of which is asked.
fn two_holders() -> (Hand, PeerId, PeerId) {
    let mut hand = Hand::new(2);
    acquaint(&mut hand, 1, 20, 100);
    let cid = block("both have it").cid;
    hand.say(ClientInput::Holders { session: 1, peers: vec![peer(1), peer(2)] });
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    let (first, _) = hand.asked(cid);
    hand.block(first[0], cid);
    hand.outputs();
    let other = if first[0] == peer(1) { peer(2) } else { peer(1) };
    (hand, first[0], other)
}

#[test]
fn a_peer_silent_for_longer_than_it_mostly_is_has_a_block_asked_of_another_and_the_loser_is_told() {
    let (mut hand, _, _) = two_holders();
    let cid = block("late").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    let (first, _) = hand.asked(cid);
    let before = hand.now;
    hand.timeout();
    let waited = hand.now.since(before);
    assert!((Duration::from_millis(15)..Duration::from_millis(60)).contains(&waited), "{waited:?}");
    let (second, _) = hand.asked(cid);
    assert_eq!(second.len(), 1);
    assert_ne!(first, second);
    assert_eq!(hand.machine.hedges(), (1, 0));
    hand.block(second[0], cid);
    let outputs = hand.outputs();
    let told = |output: &ClientOutput| matches!(output, ClientOutput::Send { peer, wants } if *peer == first[0] && wants.iter().any(|want| want.cancel && want.cid == cid));
    assert!(outputs.iter().any(told), "{outputs:?}");
    assert_eq!(hand.machine.hedges(), (1, 1));
    // Its copy comes all the same, and is held against nobody.
    hand.block(first[0], cid);
    assert_eq!((hand.outputs(), hand.machine.duplicates()), (vec![], 1));
}

#[test]
fn a_want_asked_of_two_stays_with_the_one_that_has_it_when_the_other_has_not() {
    let (mut hand, _, _) = two_holders();
    let cid = block("late").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    let (first, _) = hand.asked(cid);
    hand.timeout();
    let (second, _) = hand.asked(cid);
    hand.presence(first[0], cid, false);
    assert_eq!(hand.asked(cid), (vec![], vec![]));
    hand.say(ClientInput::Gone(first[0]));
    assert_eq!(hand.asked(cid), (vec![], vec![]));
    hand.presence(second[0], cid, false);
    assert!(hand.outputs().contains(&ClientOutput::Exhausted { sessions: vec![1], cid }));
}

#[test]
fn second_requests_cost_no_more_than_their_share_of_what_came() {
    let (mut hand, _, _) = two_holders();
    let (mut received, mut twice) = (100 * 100_000u64, 0);
    for round in 0..2_000 {
        let cid = block(&format!("always late {round}")).cid;
        hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
        let (mut asked, _) = hand.asked(cid);
        // One of ten is later than the peer mostly is.
        hand.now = hand.now + Duration::from_millis(if round % 10 == 0 { 300 } else { 20 });
        hand.say(ClientInput::Timeout);
        asked.extend(hand.asked(cid).0);
        for (copy, from) in asked.iter().enumerate() {
            hand.say(ClientInput::Received { peer: *from, blocks: vec![(cid, 100_000)], presences: vec![] });
            if copy == 0 { received += 100_000 } else { twice += 100_000 }
        }
        hand.outputs();
    }
    let percent = twice as f64 * 100.0 / received as f64;
    assert!(twice > 0 && percent <= 2.0, "{percent} %");
    assert_eq!(hand.machine.hedges().0 * 100_000, twice);
}

#[test]
fn with_one_holder_nothing_is_asked_twice_and_no_timer_spins() {
    let mut hand = Hand::new(1);
    acquaint(&mut hand, 1, 20, 100);
    let cid = block("late").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    hand.asked(cid);
    for _ in 0..8 {
        let before = hand.now;
        hand.timeout();
        assert!(hand.now > before);
        assert_eq!(hand.outputs(), vec![]);
    }
    assert_eq!(hand.machine.hedges(), (0, 0));
}

#[test]
fn what_all_said_no_to_is_not_asked_of_them_again_for_growing_times() {
    let mut hand = Hand::new(2);
    let cid = block("nobody has it").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    hand.outputs();
    hand.presence(peer(1), cid, false);
    hand.presence(peer(2), cid, false);
    hand.outputs();
    hand.say(ClientInput::End(1));
    hand.outputs();
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        hand.say(ClientInput::Want { session: 2, cids: vec![cid] });
        assert_eq!(hand.outputs(), [ClientOutput::Exhausted { sessions: vec![2], cid }]);
        let before = hand.now;
        hand.timeout();
        assert_eq!(hand.now.since(before), Duration::from_secs(seconds));
        assert_eq!(hand.asked(cid).0.len(), 1, "asked again");
        hand.presence(peer(1), cid, false);
        hand.presence(peer(2), cid, false);
        hand.outputs();
        hand.say(ClientInput::End(2));
        hand.outputs();
    }
    // One that is named, one that is new, and one that came back, are asked at once.
    hand.say(ClientInput::Want { session: 3, cids: vec![cid] });
    hand.outputs();
    hand.say(ClientInput::Holders { session: 3, peers: vec![peer(2)] });
    assert_eq!(hand.asked(cid).0, [peer(2)]);
    hand.presence(peer(2), cid, false);
    hand.outputs();
    hand.say(ClientInput::Connected(peer(3)));
    assert_eq!(hand.asked(cid).0, [peer(3)]);
    hand.presence(peer(3), cid, false);
    hand.outputs();
    hand.say(ClientInput::Gone(peer(1)));
    hand.say(ClientInput::Connected(peer(1)));
    assert_eq!(hand.asked(cid).0, [peer(1)]);
    // Once somebody had it, nothing is remembered.
    hand.block(peer(1), cid);
    hand.outputs();
    hand.say(ClientInput::Want { session: 4, cids: vec![cid] });
    let (blocks, haves) = hand.asked(cid);
    assert_eq!(blocks.len() + haves.len(), 3);
}

/// All of `hand` say no to `cid`, and whoever wanted it gives up.
fn deny(hand: &mut Hand, cid: Cid, end: ClientInput) {
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    hand.outputs();
    (1..=2).for_each(|number| hand.presence(peer(number), cid, false));
    hand.outputs();
    hand.say(end);
    hand.outputs();
}

#[test]
fn a_holder_that_was_named_before_is_asked_for_what_it_had_not_and_nobody_else() {
    let mut hand = Hand::new(2);
    let cid = block("peer 2 has it now").cid;
    deny(&mut hand, cid, ClientInput::End(1));
    hand.say(ClientInput::Want { session: 2, cids: vec![] });
    hand.say(ClientInput::Holders { session: 2, peers: vec![peer(2)] });
    hand.say(ClientInput::Want { session: 2, cids: vec![cid] });
    assert_eq!(hand.asked(cid), (vec![peer(2)], vec![]));
}

#[test]
fn a_want_that_another_session_has_in_vain_is_asked_of_the_holders_of_the_new_one() {
    let mut hand = Hand::new(2);
    let cid = block("peer 2 has it now").cid;
    deny(&mut hand, cid, ClientInput::End(1));
    hand.say(ClientInput::Want { session: 3, cids: vec![cid] });
    assert_eq!(hand.outputs(), [ClientOutput::Exhausted { sessions: vec![3], cid }]);
    hand.say(ClientInput::Want { session: 2, cids: vec![] });
    hand.say(ClientInput::Holders { session: 2, peers: vec![peer(2)] });
    hand.say(ClientInput::Want { session: 2, cids: vec![cid] });
    assert_eq!(hand.asked(cid), (vec![peer(2)], vec![]));
}

#[test]
fn a_want_that_is_put_off_leaves_no_denial() {
    let mut hand = Hand::new(2);
    let cid = block("wanted again at once").cid;
    deny(&mut hand, cid, ClientInput::Unwant { session: 1, cids: vec![cid] });
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    let (blocks, haves) = hand.asked(cid);
    assert_eq!(blocks.len() + haves.len(), 2);
}

#[test]
fn a_want_whose_denial_made_room_for_another_is_asked_all_the_same_when_its_time_has_come() {
    let mut hand = Hand::new(2);
    let config = ClientConfig { max_denied: 1, ..ClientConfig::default() };
    hand.machine = ClientMachine::new(config);
    (1..=2).for_each(|number| hand.say(ClientInput::Connected(peer(number))));
    let (cid, other) = (block("denied first").cid, block("denied then").cid);
    deny(&mut hand, cid, ClientInput::End(1));
    hand.say(ClientInput::Want { session: 2, cids: vec![cid] });
    assert_eq!(hand.outputs(), [ClientOutput::Exhausted { sessions: vec![2], cid }]);
    hand.now = hand.now + Duration::from_millis(1);
    deny(&mut hand, other, ClientInput::End(1));
    hand.timeout();
    let (blocks, haves) = hand.asked(cid);
    assert_eq!(blocks.len() + haves.len(), 2);
}

#[test]
fn only_so_many_denials_are_remembered() {
    let mut hand = Hand::new(8);
    let mut before = 0;
    for number in 0..3_200 {
        let cid = block(&format!("ghost {number}")).cid;
        hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
        let (blocks, haves) = hand.asked(cid);
        blocks.into_iter().chain(haves).for_each(|peer| hand.presence(peer, cid, false));
        let (blocks, haves) = hand.asked(cid);
        blocks.into_iter().chain(haves).for_each(|peer| hand.presence(peer, cid, false));
        hand.say(ClientInput::End(1));
        hand.outputs();
        if number == 2_200 {
            before = hand.machine.footprint_bytes();
        }
    }
    assert!(hand.machine.footprint_bytes() < before + before / 2, "{before} to {}", hand.machine.footprint_bytes());
}
