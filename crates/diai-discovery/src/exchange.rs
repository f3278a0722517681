use bytes::Bytes;
use diai_core::{Inbound, Instant, Misbehaviour, OpenError, PeerId, frame, timeout_at};
use futures::AsyncWriteExt;

use crate::{RECORD_PROTOCOL, RecordError, SignedRecord, message::MAX_RECORD_BYTES, shared::Shared};

/// Why two devices could not tell each other their records.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Stream(#[from] frame::ReadFrameError),
    #[error("the stream ended without an answer")]
    Ended,
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("no answer in time")]
    Timeout,
}

/// Tells `peer` our record and asks for its own; `None` if it has none yet. What it gives is taken in, what it does
/// wrong is reported.
pub(crate) async fn ask(shared: &Shared, peer: PeerId) -> Result<Option<SignedRecord>, ExchangeError> {
    let deadline = deadline(shared);
    let clock = &*shared.world.clock;
    let opened = timeout_at(clock, deadline, shared.world.network.open(peer, &[RECORD_PROTOCOL])).await;
    let mut stream = opened.map_err(|_| ExchangeError::Timeout)??.stream;
    let result = match timeout_at(clock, deadline, async {
        let told = send(shared, &mut stream).await?;
        let answer = frame::read(&mut stream, MAX_RECORD_BYTES).await?.ok_or(ExchangeError::Ended)?;
        // It has read what it answers.
        note(shared, peer, told);
        // The answer is whole; whether the other side sees the end does not matter.
        let _ = stream.close().await;
        receive(shared, peer, answer)
    })
    .await
    {
        Ok(result) => result,
        Err(_) => Err(ExchangeError::Timeout),
    };
    report(shared, peer, &result);
    result
}

/// Answers a device that opened a stream.
pub(crate) async fn answer(shared: &Shared, inbound: Inbound) {
    let Inbound { peer, mut stream, .. } = inbound;
    let exchange = timeout_at(&*shared.world.clock, deadline(shared), async {
        let told = send(shared, &mut stream).await?;
        let question = frame::read(&mut stream, MAX_RECORD_BYTES).await?.ok_or(ExchangeError::Ended)?;
        note(shared, peer, told);
        let _ = stream.close().await;
        receive(shared, peer, question)
    });
    let result = exchange.await.unwrap_or(Err(ExchangeError::Timeout));
    report(shared, peer, &result);
}

/// Sends our record, or an empty frame before there is one; returns its seq.
async fn send<S: futures::AsyncWrite + Unpin>(shared: &Shared, stream: &mut S) -> Result<Option<u64>, ExchangeError> {
    let own = shared.own_record();
    let bytes = own.as_ref().map(SignedRecord::to_bytes).unwrap_or_default();
    frame::write(stream, &bytes).await.map_err(frame::ReadFrameError::Io)?;
    Ok(own.map(|own| own.record().seq))
}

fn receive(shared: &Shared, peer: PeerId, bytes: Bytes) -> Result<Option<SignedRecord>, ExchangeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some(shared.learn_bytes(peer, bytes)?))
}

fn note(shared: &Shared, peer: PeerId, seq: Option<u64>) {
    let Some(seq) = seq else { return };
    let mut told = shared.told();
    let known = told.entry(peer).or_default();
    *known = seq.max(*known);
}

fn deadline(shared: &Shared) -> Instant {
    shared.world.clock.now() + shared.config.fetch_timeout
}

fn report<T>(shared: &Shared, peer: PeerId, result: &Result<T, ExchangeError>) {
    let Err(error) = result else { return };
    tracing::debug!(%peer, %error, "no record exchanged");
    let misbehaviour = match error {
        ExchangeError::Stream(frame::ReadFrameError::Frame(_)) => Some(Misbehaviour::Malformed),
        ExchangeError::Record(error) => error.misbehaviour(),
        ExchangeError::Timeout => Some(Misbehaviour::Silent),
        _ => None,
    };
    if let Some(misbehaviour) = misbehaviour {
        shared.world.network.penalise(peer, misbehaviour);
    }
}
