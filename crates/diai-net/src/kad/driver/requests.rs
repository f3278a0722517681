//! What other devices ask of this one.

use std::sync::Arc;

use diai_core::{Misbehaviour, PeerId, RecordKey, offload};
use libp2p::{
    kad::{self, InboundRequest, Record},
    swarm::{ConnectionId, NetworkBehaviour, THandlerOutEvent},
};

use super::{
    super::{gate::Standing, store::Kept},
    Driver, Kad, Validated,
};

/// Records from others whose validation is under way, in all and of one peer; more are refused.
const MAX_VALIDATING: usize = 256;
const MAX_VALIDATING_PER_PEER: usize = 64;

impl Driver {
    /// Gives kad what a connection says once its hello is over; what comes before that waits.
    pub(super) fn on_said(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Kad>) {
        match self.shared.standing(&peer, id) {
            Standing::Certified => {
                self.release();
                self.pass(peer, id, event);
            }
            Standing::Pending => self.gate.hold(peer, id, event),
            Standing::Refused => {}
        }
    }

    pub(super) fn release(&mut self) {
        if self.gate.is_empty() {
            return;
        }
        let shared = &self.shared;
        for (peer, id, event) in self.gate.release(|peer, id| shared.standing(peer, id)) {
            self.pass(peer, id, event);
        }
    }

    fn pass(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Kad>) {
        self.kad.store_mut().asker = Some(peer);
        self.kad.on_connection_handler_event(peer, id, event);
        self.kad.store_mut().asker = None;
    }

    pub(super) fn on_request(&mut self, request: InboundRequest) {
        match request {
            InboundRequest::PutRecord { source, record: Some(record), .. } if self.may_write(source, &record.key) => {
                self.validate(source, record);
            }
            InboundRequest::AddProvider { record: Some(record) } if self.may_write(record.provider, &record.key) => {
                self.kad.store_mut().providers.insert(record);
            }
            _ => {}
        }
    }

    /// Whether a peer may write under a key now; else it answers for that.
    fn may_write(&mut self, source: PeerId, key: &kad::RecordKey) -> bool {
        let fault = if self.shared.is_cut_off(&source) {
            return false;
        } else if key.as_ref().len() > RecordKey::MAX_BYTES {
            Misbehaviour::Violation
        } else if !self.rates.take(source, self.now()) {
            Misbehaviour::Flooding
        } else {
            return true;
        };
        self.shared.penalise(source, fault);
        false
    }

    /// Has the validator look at a record, off this task.
    fn validate(&mut self, source: PeerId, record: Record) {
        if record.value.len() > self.config.value_bytes {
            self.shared.penalise(source, Misbehaviour::Flooding);
            return;
        }
        let Some(key) = RecordKey::from_bytes(record.key.to_vec().into()) else { return };
        let Some(validator) = self.shared.dht.validator(&key) else { return };
        let of_source = self.validating_of.get(&source).copied().unwrap_or(0);
        if self.validating.len() >= MAX_VALIDATING || of_source >= MAX_VALIDATING_PER_PEER {
            return;
        }
        self.validating_of.insert(source, of_source + 1);
        let (pool, now) = (Arc::clone(&self.shared.parts.offload), self.shared.parts.clock.wall());
        self.validating.push(Box::pin(async move {
            let checked = offload(&*pool, move || {
                let meta = validator.validate(&key, &record.value, now).map_err(Some)?;
                Ok(Kept { key: key.as_bytes().to_vec(), value: record.value, meta, own: false })
            });
            (source, checked.await.unwrap_or(Err(None)))
        }));
    }

    pub(super) fn on_validated(&mut self, (source, checked): Validated) {
        if let Some(count) = self.validating_of.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.validating_of.remove(&source);
            }
        }
        match checked {
            Ok(kept) => {
                let outcome = self.kad.store_mut().insert(kept);
                tracing::trace!(%source, ?outcome, "record from a peer");
            }
            Err(Some(error)) => {
                tracing::debug!(%source, %error, "refused a record");
                if let Some(fault) = error.fault {
                    self.shared.penalise(source, fault);
                }
            }
            // The pool is shutting down: nobody's fault.
            Err(None) => {}
        }
    }
}
