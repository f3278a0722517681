//! Negotiation: its machines by hand, and whole over the in-memory World.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::party::{Modeller, Party, call, modeller, parties, proposal};
use diai_core::{AgentId, BoxFuture, Bytes, CallOptions, Calls, Clock, Instant, WallTime, memory::Sim, timeout_at};
use diai_messaging::{
    Messaging,
    negotiation::{
        Agreement, AwardError, AwardStep, Bidder, Call, CallForProposals, CallStep, Ending, Initiator, InitiatorInput,
        InitiatorOutput, MAX_PER_INITIATOR, NegotiationError, NegotiationId, Negotiator, Offer, Participant, SERVICE,
        StepError, When,
    },
};

#[test]
fn the_best_bid_is_awarded_and_the_agreement_verifies_anywhere() {
    let sim = Sim::new(1);
    let driver = sim.clone();
    sim.run(async move {
        let parties = parties(&driver, 4).await;
        let modellers = [modeller(20, 1), modeller(10, 5), modeller(0, 0)];
        let _bidding: Vec<_> = modellers.iter().zip(&parties[1..]).map(|(m, party)| party.serve(m)).collect();
        let mut negotiation = call(&parties).await;
        let bids = negotiation.bids();
        let bidders: Vec<_> = bids.iter().map(|bid| bid.participant()).collect();
        assert_eq!(bidders, [parties[2].id(), parties[1].id()], "the soonest first");
        assert_eq!(negotiation.refusals()[&parties[3].id()], "no time");
        let agreement = negotiation.award(bids[0].id()).await.unwrap();
        assert_eq!((agreement.initiator(), agreement.participant()), (parties[0].id(), parties[2].id()));
        assert_eq!((agreement.bid().offer().price, agreement.call().subject()), (5, &Bytes::from("a ring")));
        negotiation.close().await;
        assert_eq!(modellers[0].log(), ["bid model/1", "cancelled: not needed"]);
        assert_eq!(modellers[1].log(), ["bid model/1", "awarded"]);

        let now = parties[0].agent.world.clock.wall();
        let bytes = agreement.to_bytes();
        assert_eq!(Agreement::from_bytes(bytes.clone(), When::At(now)).unwrap().to_bytes(), bytes);
        let years = now + Duration::from_secs(10 * 365 * 86_400);
        assert!(matches!(agreement.verify(When::At(years)), Err(NegotiationError::Signer(_))));
        agreement.verify(When::Ever).unwrap();
    });
}

#[test]
fn when_the_first_fails_the_second_bid_gets_an_agreement_of_its_own() {
    let sim = Sim::new(2);
    let driver = sim.clone();
    sim.run(async move {
        let parties = parties(&driver, 3).await;
        let modellers = [modeller(10, 1), modeller(20, 1)];
        let _bidding: Vec<_> = modellers.iter().zip(&parties[1..]).map(|(m, party)| party.serve(m)).collect();
        let mut negotiation = call(&parties).await;
        let bids = negotiation.bids();
        let first = negotiation.award(bids[0].id()).await.unwrap();
        let twice = negotiation.award(bids[1].id()).await.unwrap_err();
        assert!(matches!(twice, AwardError::Step(StepError::Awarded { .. })), "{twice}");
        driver.kill(parties[1].agent.peer());
        negotiation.failed().unwrap();
        let second = negotiation.award(negotiation.bids()[0].id()).await.unwrap();
        assert_eq!((first.participant(), second.participant()), (parties[1].id(), parties[2].id()));
        assert_eq!(first.id(), second.id());
        second.verify(When::Ever).unwrap();
    });
}

#[test]
fn an_award_that_is_refused_leaves_the_call_open() {
    let sim = Sim::new(3);
    let driver = sim.clone();
    sim.run(async move {
        let parties = parties(&driver, 3).await;
        let modellers = [Arc::new(Modeller { run: 10, refuses_award: true, ..Modeller::default() }), modeller(20, 1)];
        let _bidding: Vec<_> = modellers.iter().zip(&parties[1..]).map(|(m, party)| party.serve(m)).collect();
        let mut negotiation = call(&parties).await;
        let refused = negotiation.award(negotiation.bids()[0].id()).await.unwrap_err();
        assert!(matches!(&refused, AwardError::Refused { reason, .. } if reason == "busy by now"), "{refused}");
        let agreement = negotiation.award(negotiation.bids()[0].id()).await.unwrap();
        assert_eq!(agreement.participant(), parties[2].id());
    });
}

#[test]
fn a_bid_lapses_on_both_sides() {
    let sim = Sim::new(4);
    let driver = sim.clone();
    sim.run(async move {
        let parties = parties(&driver, 2).await;
        let short = Arc::new(Modeller { run: 10, valid_for: Duration::from_secs(2), ..Modeller::default() });
        let _bidding = parties[1].serve(&short);
        let mut negotiation = call(&parties).await;
        let bid = negotiation.bids()[0].id();
        let clock = parties[0].agent.world.clock.clone();
        clock.sleep_until(clock.now() + Duration::from_secs(3)).await;
        assert_eq!(short.log(), ["bid model/1", "lapsed"]);
        let lapsed = negotiation.award(bid).await.unwrap_err();
        assert!(matches!(lapsed, AwardError::Step(StepError::Lapsed { .. })), "{lapsed}");
    });
}

#[test]
fn who_does_not_answer_in_time_is_left_out() {
    struct Hangs;
    impl Bidder for Hangs {
        fn bid(&self, _: Call) -> BoxFuture<'static, Result<Offer, String>> {
            Box::pin(std::future::pending())
        }
        fn awarded(&self, _: Agreement) -> BoxFuture<'static, Result<(), String>> {
            Box::pin(async { Ok(()) })
        }
        fn ended(&self, _: NegotiationId, _: Ending) {}
    }
    let sim = Sim::new(5);
    let driver = sim.clone();
    sim.run(async move {
        let parties = parties(&driver, 3).await;
        let quick = modeller(10, 1);
        let _bidding = [parties[1].negotiator.serve(Arc::new(Hangs)).unwrap(), parties[2].serve(&quick)];
        let clock = parties[0].agent.world.clock.clone();
        let begun = clock.now();
        let negotiation = call(&parties).await;
        assert_eq!(clock.now().since(begun).as_secs(), 5);
        assert_eq!(negotiation.bids().len(), 1);
    });
}

/// What travelled when an agreement was made, taken from the wire.
struct Taken(Mutex<Vec<Bytes>>, Messaging);

impl Calls for Taken {
    fn local_agent(&self) -> AgentId {
        self.1.local_agent()
    }
    fn call(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<Bytes, diai_core::CallError>> {
        self.0.lock().unwrap().push(body.clone());
        self.1.call(to, service, body, options)
    }
    fn call_streaming(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<diai_core::ReplyStream, diai_core::CallError>> {
        self.1.call_streaming(to, service, body, options)
    }
    fn notify(
        &self,
        to: AgentId,
        service: &str,
        body: Bytes,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<(), diai_core::CallError>> {
        self.1.notify(to, service, body, options)
    }
    fn register(
        &self,
        service: &str,
        handler: Arc<dyn diai_core::Service>,
    ) -> Result<diai_core::Registration, diai_core::RegisterError> {
        self.1.register(service, handler)
    }
}

#[test]
fn steps_that_are_replayed_stolen_or_garbled_change_nothing() {
    let sim = Sim::new(6);
    let driver = sim.clone();
    sim.run(async move {
        let parties = parties(&driver, 3).await;
        let bidder = modeller(10, 1);
        let _bidding = parties[1].serve(&bidder);
        let taken = Arc::new(Taken(Mutex::default(), parties[0].messaging.clone()));
        let negotiator = Negotiator::new(&parties[0].agent.world, taken.clone(), parties[0].agent.identity.clone());
        let to = parties[1].id();
        let mut negotiation = negotiator.call(vec![to], proposal()).await.unwrap();
        let agreement = negotiation.award(negotiation.bids()[0].id()).await.unwrap();
        let sent = taken.0.lock().unwrap().clone();
        let [call, award] = &sent[..] else { panic!("{} requests", sent.len()) };
        parties[2].agent.world.network.connect(parties[1].agent.peer(), vec![]).await.unwrap();
        let ask = |from: &Party, body: Bytes| from.messaging.call(to, SERVICE, body, CallOptions::default());
        // The award again: the same acceptance, and the bidder is not asked again.
        let again = ask(&parties[0], award.clone()).await.unwrap();
        let acceptance = agreement.acceptance().to_bytes();
        assert!(again.windows(acceptance.len()).any(|window| window == acceptance));
        // Another agent with the same bytes.
        assert!(ask(&parties[2], call.clone()).await.is_err());
        let stolen = ask(&parties[2], award.clone()).await.unwrap();
        assert!(!stolen.windows(acceptance.len()).any(|window| window == acceptance));
        for bytes in [call, award] {
            for index in (0..bytes.len()).step_by(11) {
                let mut garbled = bytes.to_vec();
                garbled[index] ^= 0x20;
                if let Ok(answer) = ask(&parties[0], garbled.into()).await {
                    assert!(!answer.windows(acceptance.len()).any(|window| window == acceptance), "byte {index}");
                }
                assert!(ask(&parties[0], bytes.slice(..index)).await.is_err());
            }
        }
        assert_eq!(bidder.log(), ["bid model/1", "awarded"]);
        assert!(parties[1].messaging.status().violations == 0);
    });
}

#[test]
fn an_agreement_of_parts_that_do_not_belong_together_does_not_verify() {
    let sim = Sim::new(7);
    let driver = sim.clone();
    sim.run(async move {
        let parties = parties(&driver, 3).await;
        let modellers = [modeller(10, 1), modeller(20, 1)];
        let _bidding: Vec<_> = modellers.iter().zip(&parties[1..]).map(|(m, party)| party.serve(m)).collect();
        let (mut one, mut other) = (call(&parties).await, call(&parties).await);
        let first = one.award(one.bids()[0].id()).await.unwrap();
        let second = other.award(other.bids()[0].id()).await.unwrap();
        one.failed().unwrap();
        let third = one.award(one.bids()[0].id()).await.unwrap();
        let parts = |agreement: &Agreement| {
            [
                agreement.call().signed().to_bytes(),
                agreement.bid().signed().to_bytes(),
                agreement.award().to_bytes(),
                agreement.acceptance().to_bytes(),
            ]
        };
        let put = |parts: [Bytes; 4]| {
            let mut bytes = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                bytes.push(u8::try_from(index + 1).unwrap() << 3 | 2);
                prost::encode_length_delimiter(part.len(), &mut bytes).unwrap();
                bytes.extend_from_slice(part);
            }
            Agreement::from_bytes(bytes, When::Ever)
        };
        assert_eq!(put(parts(&first)).unwrap(), Agreement::from_bytes(first.to_bytes(), When::Ever).unwrap());
        for mixed in [&second, &third] {
            for index in 0..4 {
                let mut parts_of_both = parts(&first);
                parts_of_both[index] = parts(mixed)[index].clone();
                if parts_of_both != parts(&first) {
                    assert!(put(parts_of_both).is_err(), "part {index} of another agreement");
                }
            }
        }
        let bytes = first.to_bytes();
        for index in 0..bytes.len() {
            assert!(Agreement::from_bytes(bytes.slice(..index), When::Ever).is_err());
        }
        for index in (0..bytes.len()).step_by(13) {
            let mut garbled = bytes.to_vec();
            garbled[index] ^= 1;
            assert!(Agreement::from_bytes(garbled, When::Ever).is_err(), "byte {index}");
        }
        assert!(Agreement::from_bytes(vec![0; 1 << 20], When::Ever).is_err());
    });
}

#[test]
fn the_initiators_machine_closes_by_answers_by_time_and_by_the_user() {
    let sim = Sim::new(8);
    let driver = sim.clone();
    sim.run(async move {
        let parties = parties(&driver, 2).await;
        let bidder = modeller(10, 1);
        let _bidding = parties[1].serve(&bidder);
        let call = call(&parties).await.call().clone();
        let agents: Vec<_> = (1..=3).map(|number| AgentId::from_bytes([number; 32])).collect();
        let drain = |machine: &mut Initiator| std::iter::from_fn(|| machine.poll_output()).collect::<Vec<_>>();
        let now = WallTime::from_unix_ms(0);

        let mut machine = Initiator::new(call.clone(), vec![agents[0], agents[1], agents[0]]);
        assert_eq!(drain(&mut machine), [InitiatorOutput::Ask(agents[0]), InitiatorOutput::Ask(agents[1])]);
        for agent in [agents[0], agents[0], agents[2]] {
            machine.handle(now, InitiatorInput::Refused(agent, "no".into())).unwrap();
            assert_eq!(drain(&mut machine), []);
        }
        machine.handle(now, InitiatorInput::Refused(agents[1], "no".into())).unwrap();
        assert_eq!(drain(&mut machine), [InitiatorOutput::BidsClosed]);

        let mut machine = Initiator::new(call.clone(), agents.clone());
        drain(&mut machine);
        assert_eq!(machine.poll_timeout(), Some(call.bids_until()));
        machine.handle(call.bids_until(), InitiatorInput::Timeout).unwrap();
        assert_eq!(drain(&mut machine), [InitiatorOutput::BidsClosed]);
        assert_eq!(machine.poll_timeout(), Some(call.valid_until()));
        machine.handle(call.valid_until(), InitiatorInput::Timeout).unwrap();
        assert_eq!(drain(&mut machine), [InitiatorOutput::Expired]);
        assert_eq!(machine.poll_timeout(), None);

        let mut machine = Initiator::new(call, agents.clone());
        drain(&mut machine);
        machine.handle(now, InitiatorInput::Close).unwrap();
        let cancels: Vec<_> = agents.iter().map(|&agent| InitiatorOutput::Cancel(agent, "not needed")).collect();
        assert_eq!(drain(&mut machine), cancels, "who was asked may have bid by now");
        assert_eq!(machine.handle(now, InitiatorInput::Failed), Err(StepError::Ended));
    });
}

#[test]
fn limits_hold_before_anything_is_sent() {
    let sim = Sim::new(9);
    let driver = sim.clone();
    sim.run(async move {
        let parties = parties(&driver, 1).await;
        let negotiator = &parties[0].negotiator;
        let long = CallForProposals { subject: Bytes::from(vec![0; (64 << 10) + 1]), ..proposal() };
        assert!(negotiator.call(vec![], long).await.is_err());
        let crowd = (0..300u16).map(|number| AgentId::from_bytes([number as u8; 32])).collect();
        assert!(negotiator.call(crowd, proposal()).await.is_err());
        assert!(negotiator.call(vec![], proposal()).await.unwrap().bids().is_empty());
    });
}

#[test]
fn nobody_holds_a_place_for_longer_than_a_day() {
    let sim = Sim::new(61);
    sim.run(async {
        let parties = parties(&sim, 2).await;
        let _bidding = parties[1].serve(&modeller(3, 5));
        let long = CallForProposals { valid_for: Duration::from_secs(48 * 3600), ..proposal() };
        let negotiation = parties[0].negotiator.call(vec![parties[1].id()], long).await.unwrap();
        assert!(negotiation.bids().is_empty());
        assert!(negotiation.refusals()[&parties[1].id()].contains("more than a day"), "{:?}", negotiation.refusals());
    });
}

#[test]
fn a_bid_that_has_lapsed_is_no_longer_among_those_to_award() {
    let sim = Sim::new(62);
    sim.run(async {
        let parties = parties(&sim, 2).await;
        let _bidding = parties[1].serve(&modeller(3, 5));
        let mut negotiation = call(&parties).await;
        let bid = negotiation.bids()[0].clone();
        let clock = &parties[0].agent.world.clock;
        clock.sleep_until(clock.now() + Duration::from_secs(61)).await;
        assert!(negotiation.award(bid.id()).await.is_err());
        assert!(negotiation.bids().is_empty());
    });
}

#[test]
fn an_agreement_can_be_given_up_for_as_long_as_the_work_may_take() {
    let sim = Sim::new(63);
    sim.run(async {
        let parties = parties(&sim, 2).await;
        let bidder = modeller(600, 5);
        let _bidding = parties[1].serve(&bidder);
        let mut negotiation = call(&parties).await;
        negotiation.award(negotiation.bids()[0].id()).await.unwrap();
        let clock = &parties[0].agent.world.clock;
        clock.sleep_until(clock.now() + Duration::from_secs(300)).await;
        negotiation.failed().unwrap();
        negotiation.close().await;
        assert_eq!(bidder.log(), ["bid model/1", "awarded", "cancelled: the award was given up"]);
    });
}

/// A clock that is ahead.
struct Ahead(Arc<dyn Clock>, Duration);

impl Clock for Ahead {
    fn now(&self) -> Instant {
        self.0.now()
    }
    fn wall(&self) -> WallTime {
        self.0.wall() + self.1
    }
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.0.sleep_until(deadline)
    }
}

#[test]
fn clocks_that_differ_a_little_end_no_negotiation() {
    let sim = Sim::new(64);
    sim.run(async {
        let parties = parties(&sim, 2).await;
        let Party { agent, messaging, .. } = &parties[1];
        let mut world = agent.world.clone();
        // The call is valid for sixty.
        world.clock = Arc::new(Ahead(world.clock.clone(), Duration::from_secs(90)));
        let ahead = Negotiator::new(&world, Arc::new(messaging.clone()), agent.identity.clone());
        let _bidding = ahead.serve(modeller(3, 5)).unwrap();
        let mut negotiation = call(&parties).await;
        assert_eq!(negotiation.refusals().len(), 0, "{:?}", negotiation.refusals());
        negotiation.award(negotiation.bids()[0].id()).await.unwrap();
    });
}

#[test]
fn a_negotiation_that_is_cancelled_while_the_bidder_takes_the_award_does_not_come_back() {
    let sim = Sim::new(65);
    sim.run(async {
        let parties = parties(&sim, 2).await;
        let _bidding = parties[1].serve(&modeller(3, 5));
        let mut negotiation = call(&parties).await;
        let agreement = negotiation.award(negotiation.bids()[0].id()).await.unwrap();
        let (call, bid, now) = (agreement.call(), agreement.bid(), agreement.awarded());
        let mut participant = Participant::new();
        assert_eq!(participant.called(now, call), CallStep::Consider);
        assert_eq!(participant.decided(call.id(), Some(bid.clone())), Some(bid.clone()));
        let accept = AwardStep::Accept(Box::new((call.clone(), bid.clone())));
        for _ in 0..2 {
            assert_eq!(participant.awarded(now, call.initiator(), call.id()), accept);
            assert_eq!(participant.accepting(agreement.clone()), Some(agreement.clone()), "the same one, asked twice");
        }
        assert!(participant.cancelled(call.initiator(), call.id()));
        assert!(!participant.agreed(now, &agreement));
        assert!(matches!(participant.awarded(now, call.initiator(), call.id()), AwardStep::Refuse(_)));
    });
}

#[test]
fn an_award_that_nobody_waits_for_can_be_given_up() {
    struct Slow;
    impl Bidder for Slow {
        fn bid(&self, _: Call) -> BoxFuture<'static, Result<Offer, String>> {
            Box::pin(async { Ok(Offer { run: Duration::from_secs(1), ..Offer::default() }) })
        }
        fn awarded(&self, _: Agreement) -> BoxFuture<'static, Result<(), String>> {
            Box::pin(std::future::pending())
        }
        fn ended(&self, _: NegotiationId, _: Ending) {}
    }
    let sim = Sim::new(66);
    sim.run(async {
        let parties = parties(&sim, 3).await;
        let _bidding = [parties[1].negotiator.serve(Arc::new(Slow)).unwrap(), parties[2].serve(&modeller(20, 1))];
        let mut negotiation = call(&parties).await;
        let bids = negotiation.bids();
        let clock = parties[0].agent.world.clock.clone();
        let given_up = timeout_at(&*clock, clock.now() + Duration::from_secs(1), negotiation.award(bids[0].id())).await;
        assert!(given_up.is_err());
        negotiation.failed().unwrap();
        let agreement = negotiation.award(bids[1].id()).await.unwrap();
        assert_eq!(agreement.participant(), parties[2].id());
    });
}

#[test]
fn askings_that_are_given_up_take_no_place() {
    struct Ponders;
    impl Bidder for Ponders {
        fn bid(&self, call: Call) -> BoxFuture<'static, Result<Offer, String>> {
            let at_once = call.kind() == "easy/1";
            Box::pin(async move { if at_once { Ok(Offer::default()) } else { std::future::pending().await } })
        }
        fn awarded(&self, _: Agreement) -> BoxFuture<'static, Result<(), String>> {
            Box::pin(async { Ok(()) })
        }
        fn ended(&self, _: NegotiationId, _: Ending) {}
    }
    let sim = Sim::new(67);
    sim.run(async {
        let parties = parties(&sim, 2).await;
        let _bidding = parties[1].negotiator.serve(Arc::new(Ponders)).unwrap();
        let call = |kind: &str| {
            let (kind, bids_within) = (kind.to_owned(), Duration::from_millis(100));
            let proposal = CallForProposals { kind, bids_within, valid_for: Duration::from_secs(3600), ..proposal() };
            parties[0].negotiator.call(vec![parties[1].id()], proposal)
        };
        for _ in 0..MAX_PER_INITIATOR {
            assert!(call("hard/1").await.unwrap().bids().is_empty());
        }
        assert_eq!(call("easy/1").await.unwrap().bids().len(), 1);
    });
}
