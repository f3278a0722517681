//! The machine that asks in Bitswap, driven by hand.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use diai_blocks::{
    Block, RAW,
    bitswap::{ClientInput, ClientMachine, ClientOutput, Presence, WantKind},
    config::ClientConfig,
};
use diai_core::{Footprint, Instant, Misbehaviour, PeerId, memory::AgentSpec};

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

#[test]
fn one_peer_gets_the_want_block_and_the_others_a_want_have() {
    let mut hand = Hand::new(4);
    let cid = block("a").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    let (blocks, haves) = hand.asked(cid);
    assert_eq!((blocks.len(), haves.len()), (1, 3));
    // Its DONT_HAVE moves the want to whoever said HAVE, as the only want-block.
    hand.presence(haves[1], cid, true);
    assert_eq!(hand.asked(cid), (vec![], vec![]));
    hand.presence(blocks[0], cid, false);
    assert_eq!(hand.asked(cid), (vec![haves[1]], vec![]));
    hand.block(haves[1], cid);
    let outputs = hand.outputs();
    assert!(outputs.contains(&ClientOutput::Wanted { cid, sessions: vec![1], peer: haves[1] }));
    let cancels = outputs.iter().filter(|output| matches!(output, ClientOutput::Send { wants, .. } if wants[0].cancel));
    assert_eq!(cancels.count(), 3, "all who know of it but the deliverer");
}

#[test]
fn who_delivered_is_asked_alone_for_the_next_blocks_of_the_session() {
    let mut hand = Hand::new(4);
    let (root, next) = (block("root").cid, block("next").cid);
    hand.say(ClientInput::Want { session: 1, cids: vec![root] });
    let (first, _) = hand.asked(root);
    hand.block(first[0], root);
    hand.outputs();
    hand.say(ClientInput::Want { session: 1, cids: vec![next] });
    assert_eq!(hand.asked(next), (first, vec![]));
}

#[test]
fn when_all_said_no_the_want_is_exhausted_and_a_newcomer_is_asked() {
    let mut hand = Hand::new(2);
    let cid = block("a").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    hand.outputs();
    hand.presence(peer(1), cid, false);
    hand.presence(peer(2), cid, false);
    assert!(hand.outputs().contains(&ClientOutput::Exhausted { sessions: vec![1], cid }));
    hand.say(ClientInput::Connected(peer(3)));
    assert_eq!(hand.asked(cid).0, [peer(3)]);
    // A late push of one that said no is as good.
    hand.block(peer(1), cid);
    assert!(matches!(hand.outputs()[0], ClientOutput::Wanted { .. }));
}

#[test]
fn repeated_words_take_no_memory_and_put_no_deadline_off() {
    let mut hand = Hand::new(3);
    let wanted = block("wanted").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![wanted] });
    let (blocks, haves) = hand.asked(wanted);
    // All are busy with other wants when the only holder is found, so that this one waits.
    let others: Vec<_> = (0..2_000).map(|number| block(&format!("other {number}")).cid).collect();
    hand.say(ClientInput::Want { session: 1, cids: others });
    hand.presence(haves[0], wanted, true);
    hand.presence(blocks[0], wanted, false);
    let mallory = haves[1];
    hand.presence(mallory, wanted, false);
    assert_eq!(hand.asked(wanted).0, [], "it waits");
    let before = hand.machine.footprint_bytes();
    for number in 0..10_000 {
        hand.presence(mallory, wanted, number % 2 == 0);
        hand.presence(mallory, wanted, false);
    }
    assert!(hand.machine.footprint_bytes() <= before + 1_000, "{} to {}", before, hand.machine.footprint_bytes());

    // Two say nothing; the third repeats itself, which keeps the want from nothing.
    let mut hand = Hand::new(3);
    hand.say(ClientInput::Want { session: 1, cids: vec![wanted] });
    let (blocks, haves) = hand.asked(wanted);
    hand.presence(blocks[0], wanted, false);
    hand.presence(haves[0], wanted, false);
    let until = hand.machine.poll_timeout().unwrap();
    while hand.now < until {
        hand.now = hand.now + Duration::from_millis(100);
        hand.presence(haves[0], wanted, false);
    }
    hand.say(ClientInput::Timeout);
    assert!(
        hand.outputs().iter().any(|output| matches!(output, ClientOutput::Exhausted { cid, .. } if *cid == wanted))
    );
}

#[test]
fn silence_and_disconnection_move_wants_to_the_next_peer() {
    let mut hand = Hand::new(2);
    let cid = block("a").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    let (blocks, haves) = hand.asked(cid);
    hand.presence(haves[0], cid, true);
    hand.outputs();
    hand.timeout();
    let outputs = hand.outputs();
    let silent = ClientOutput::Penalise { peer: blocks[0], misbehaviour: Misbehaviour::Silent };
    assert!(outputs.contains(&silent), "{outputs:?}");
    assert!(outputs.iter().any(|output| matches!(output, ClientOutput::Send { peer, .. } if *peer == haves[0])));
    hand.say(ClientInput::Gone(haves[0]));
    assert!(hand.outputs().contains(&ClientOutput::Exhausted { sessions: vec![1], cid }));
}

#[test]
fn a_wrong_block_is_held_against_who_owes_one_and_a_late_double_is_not() {
    let mut hand = Hand::new(2);
    let (cid, other) = (block("a").cid, block("b").cid);
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    let (blocks, haves) = hand.asked(cid);
    hand.block(haves[0], other);
    assert_eq!(hand.outputs(), [], "unasked, but it owes nothing");
    hand.block(blocks[0], other);
    let wrong = ClientOutput::Penalise { peer: blocks[0], misbehaviour: Misbehaviour::WrongContent };
    assert!(hand.outputs().contains(&wrong));
    hand.block(haves[0], cid);
    hand.block(haves[0], cid);
    assert_eq!(hand.machine.duplicates(), 1);
    assert!(!hand.outputs().iter().any(|output| matches!(output, ClientOutput::Penalise { .. })));
}

#[test]
fn a_peer_is_given_no_more_than_its_window_and_sessions_that_end_cancel() {
    let mut hand = Hand::new(1);
    let cids: Vec<_> = (0..100).map(|number| block(&number.to_string()).cid).collect();
    hand.say(ClientInput::Want { session: 1, cids: cids.clone() });
    let sent = |outputs: &[ClientOutput], cancel| {
        outputs
            .iter()
            .map(|output| match output {
                ClientOutput::Send { wants, .. } => wants.iter().filter(|want| want.cancel == cancel).count(),
                _ => 0,
            })
            .sum::<usize>()
    };
    // The first goes alone until the peer has proved itself; the others wait for it or for its want-have.
    let first = sent(&hand.outputs(), false);
    assert!(first <= 100);
    hand.block(peer(1), cids[0]);
    hand.outputs();
    hand.say(ClientInput::End(1));
    assert!(sent(&hand.outputs(), true) > 0);
    assert_eq!(hand.machine.wants(), 0);
    hand.block(peer(1), cids[1]);
    assert_eq!(hand.machine.duplicates(), 1, "what was cancelled too late is no crime");
}

#[test]
fn the_only_holder_is_asked_again_when_it_shows_life_and_is_granted_a_longer_silence() {
    let mut hand = Hand::new(1);
    let (cid, other) = (block("a").cid, block("b").cid);
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    assert_eq!(hand.asked(cid).0, [peer(1)]);
    let asked_at = hand.now;
    hand.timeout();
    let stall = hand.now.since(asked_at);
    assert!(hand.outputs().contains(&ClientOutput::Exhausted { sessions: vec![1], cid }));
    hand.say(ClientInput::Alive(peer(1)));
    assert_eq!(hand.asked(cid).0, [peer(1)], "a part of a message is a sign of life");
    let asked_at = hand.now;
    hand.timeout();
    assert_eq!(hand.now.since(asked_at), stall * 2);
    hand.outputs();
    // Without any sign it is asked again all the same, later and later.
    hand.timeout();
    assert_eq!(hand.asked(cid).0, [peer(1)]);
    hand.block(peer(1), cid);
    hand.say(ClientInput::Want { session: 1, cids: vec![other] });
    hand.outputs();
    let asked_at = hand.now;
    hand.timeout();
    assert_eq!(hand.now.since(asked_at), stall, "a block makes up for all that");
}

#[test]
fn a_peer_whose_dial_takes_long_is_not_penalised_and_asked_when_it_is_connected() {
    let mut hand = Hand::new(1);
    let cid = block("a").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    assert!(matches!(hand.machine.poll_output(), Some(ClientOutput::Send { .. })));
    hand.timeout();
    let outputs: Vec<_> = std::iter::from_fn(|| hand.machine.poll_output()).collect();
    assert_eq!(
        outputs,
        [ClientOutput::Exhausted { sessions: vec![1], cid }],
        "others would be asked, if there were any"
    );
    hand.say(ClientInput::Sent(peer(1)));
    assert_eq!(hand.asked(cid).0, [peer(1)]);
}

#[test]
fn one_message_of_wants_is_on_its_way_to_a_peer_and_the_last_word_on_a_want_counts() {
    let mut hand = Hand::new(1);
    let (a, b, c) = (block("a").cid, block("b").cid, block("c").cid);
    hand.say(ClientInput::Want { session: 1, cids: vec![a] });
    assert!(matches!(hand.machine.poll_output(), Some(ClientOutput::Send { .. })));
    hand.say(ClientInput::Want { session: 2, cids: vec![b, c] });
    hand.say(ClientInput::Unwant { session: 2, cids: vec![b] });
    assert_eq!(hand.machine.poll_output(), None);
    hand.say(ClientInput::Sent(peer(1)));
    let Some(ClientOutput::Send { wants, .. }) = hand.machine.poll_output() else { panic!("nothing to send") };
    let mut said: Vec<_> = wants.iter().map(|want| (want.cid == b, want.cancel)).collect();
    said.sort_unstable();
    assert_eq!(said, [(false, false), (true, true)]);
}

#[test]
fn blocks_that_a_peer_owed_before_it_went_and_came_back_are_welcome() {
    let mut hand = Hand::new(1);
    let cids: Vec<_> = (0..600).map(|number| block(&number.to_string()).cid).collect();
    hand.say(ClientInput::Want { session: 1, cids: cids.clone() });
    hand.outputs();
    hand.block(peer(1), cids[0]);
    hand.say(ClientInput::Unwant { session: 1, cids: vec![cids[1]] });
    hand.outputs();
    hand.say(ClientInput::Gone(peer(1)));
    hand.say(ClientInput::Connected(peer(1)));
    let asked: Vec<_> = cids.iter().filter(|cid| hand.machine.asked(cid).contains(&peer(1))).copied().collect();
    hand.outputs();
    let late = *cids[2..].iter().find(|cid| !asked.contains(cid)).unwrap();
    [cids[0], cids[1], late].into_iter().for_each(|cid| hand.block(peer(1), cid));
    let outputs = hand.outputs();
    assert!(outputs.contains(&ClientOutput::Wanted { cid: late, sessions: vec![1], peer: peer(1) }));
    assert!(!outputs.iter().any(|output| matches!(output, ClientOutput::Penalise { .. })), "{outputs:?}");
    assert_eq!(hand.machine.duplicates(), 2);
}

#[test]
fn wants_that_a_peer_has_answered_leave_room_for_others_and_the_oldest_are_ended() {
    let mut hand = Hand::new(1);
    let cids: Vec<_> = (0..1000).map(|number| block(&number.to_string()).cid).collect();
    hand.say(ClientInput::Want { session: 1, cids });
    let (mut exhausted, mut ended) = (0, 0);
    loop {
        let outputs = hand.outputs();
        let mut asked = Vec::new();
        for output in outputs {
            match output {
                ClientOutput::Send { wants, .. } => {
                    ended += wants.iter().filter(|want| want.cancel).count();
                    asked.extend(wants.into_iter().filter(|want| !want.cancel).map(|want| want.cid));
                }
                ClientOutput::Exhausted { .. } => exhausted += 1,
                _ => {}
            }
        }
        if asked.is_empty() {
            break;
        }
        asked.into_iter().for_each(|cid| hand.presence(peer(1), cid, false));
    }
    assert_eq!((exhausted, ended), (1000, 1000 - 512), "each was asked for, and 512 stand");
    let has = block("it has this").cid;
    hand.say(ClientInput::Want { session: 2, cids: vec![has] });
    assert_eq!(hand.asked(has).0, [peer(1)]);
}

#[test]
fn a_peer_that_is_full_is_busy_and_what_one_session_was_refused_costs_another_nothing() {
    let mut hand = Hand::new(1);
    let full: Vec<_> = (0..512).map(|number| block(&number.to_string()).cid).collect();
    let (mine, next) = (block("mine").cid, block("next").cid);
    hand.say(ClientInput::Want { session: 2, cids: vec![mine] });
    hand.outputs();
    hand.block(peer(1), mine);
    hand.say(ClientInput::Want { session: 1, cids: full.clone() });
    hand.say(ClientInput::Want { session: 3, cids: vec![next] });
    let outputs = hand.outputs();
    assert!(!outputs.iter().any(|output| matches!(output, ClientOutput::Exhausted { .. })), "nobody said no");
    for cid in &full[..20] {
        hand.presence(peer(1), *cid, false);
    }
    let (blocks, haves) = hand.asked(next);
    assert_eq!(blocks.len() + haves.len(), 1, "there is room again");
    hand.say(ClientInput::End(1));
    hand.say(ClientInput::End(3));
    hand.outputs();
    hand.say(ClientInput::Connected(peer(2)));
    hand.say(ClientInput::Want { session: 2, cids: vec![next] });
    assert_eq!(hand.asked(next), (vec![peer(1)], vec![]), "it is still the holder of this session");
}
