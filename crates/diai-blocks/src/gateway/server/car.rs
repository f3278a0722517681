//! The body of an answer that is a CAR file, made as it is read.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use cid::Cid;
use diai_core::BoxFuture;
use futures::FutureExt;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{
    OwnedSemaphorePermit,
    mpsc::{self, Receiver},
};

use super::served::Served;
use crate::car::{ExportError, ExportOptions, Exporter, Scope};

/// A body, and what it holds while it is sent.
pub(super) struct Answer {
    content: Content,
    permits: Vec<OwnedSemaphorePermit>,
}

enum Content {
    Whole(Full<Bytes>),
    Car(Car),
}

/// A CAR file in the making: the maker goes on only while the body is polled.
struct Car {
    maker: BoxFuture<'static, Result<(), ExportError>>,
    made: Receiver<Bytes>,
    ended: bool,
}

/// What to send.
pub(super) struct Wanted {
    pub(super) path: Vec<Cid>,
    pub(super) target: Cid,
    pub(super) scope: Scope,
    pub(super) options: ExportOptions,
}

impl Answer {
    pub(super) fn whole(content: impl Into<Bytes>, permits: Vec<OwnedSemaphorePermit>) -> Self {
        Self { content: Content::Whole(Full::new(content.into())), permits }
    }

    pub(super) fn car(store: Served, wanted: Wanted, permits: Vec<OwnedSemaphorePermit>) -> Self {
        let (give, made) = mpsc::channel(1);
        let maker = async move {
            let Wanted { path, target, scope, options } = wanted;
            let mut exporter = Exporter::scoped(&store, &path, target, scope, &options);
            while let Some(chunk) = exporter.chunk().await? {
                // Nobody reads any more.
                if give.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        Self { content: Content::Car(Car { maker: maker.boxed(), made, ended: false }), permits }
    }
}

impl Car {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ExportError>>> {
        if let Poll::Ready(Some(chunk)) = self.made.poll_recv(cx) {
            return Poll::Ready(Some(Ok(chunk)));
        }
        if !self.ended
            && let Poll::Ready(made) = self.maker.as_mut().poll(cx)
        {
            self.ended = true;
            if let Err(error) = made {
                tracing::debug!(%error, "a CAR file is cut short");
                return Poll::Ready(Some(Err(error)));
            }
        }
        self.made.poll_recv(cx).map(|chunk| chunk.map(Ok))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = ExportError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ExportError>>> {
        let this = self.get_mut();
        let polled = match &mut this.content {
            Content::Whole(whole) => Pin::new(whole).poll_frame(cx).map_err(|never| match never {}),
            Content::Car(car) => car.poll(cx).map_ok(Frame::data),
        };
        if let Poll::Ready(None) = polled {
            this.permits.clear();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(whole) if whole.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(whole) => whole.size_hint(),
            Content::Car(_) => SizeHint::default(),
        }
    }
}
