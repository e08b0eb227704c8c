//! Which HTTP answer an error is, and what stands in it.

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use crate::{
    api::wire,
    ipam,
    model::{endpoint::BadIfname, network::NetworkError, pool::PoolError},
    problem::{Problem, Rejection},
    store::{Away, Kind},
    words::{self, Unseemly},
};

/// When to ask again what only time mends, in seconds: as long as an agent waits between
/// two attempts to reach its store.
const RETRY: HeaderValue = HeaderValue::from_static("5");

/// A request that failed, and why.
pub(super) struct Refused(pub anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, retry) = status(&self.0);
        let mend = match status {
            StatusCode::BAD_REQUEST => "correct the request",
            StatusCode::INTERNAL_SERVER_ERROR => "see the agent's log",
            _ => "see `margay status`",
        };
        let Problem { problem, mend } = match self.0.chain().find_map(away) {
            Some(away) => away.to_problem(),
            None => Problem::of(&self.0, mend),
        };
        let failure = wire::Failure { error: words::of(&self.0), problem, mend };
        let mut response = (status, Json(failure)).into_response();
        if retry {
            response.headers_mut().insert(RETRY_AFTER, RETRY);
        }
        response
    }
}

/// The failure of the store behind a cause, if it is one.
fn away<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a Away> {
    let of_ipam = |refusal: &'a ipam::Refusal| match refusal {
        ipam::Refusal::Away(away) => Some(away),
        _ => None,
    };
    cause.downcast_ref::<Away>().or_else(|| cause.downcast_ref::<ipam::Refusal>().and_then(of_ipam))
}

/// The status of an error, and whether it is worth asking again. The first of its causes
/// that has a type decides.
fn status(error: &anyhow::Error) -> (StatusCode, bool) {
    let known = error.chain().find_map(|cause| {
        let invalid = cause.is::<NetworkError>()
            || cause.is::<PoolError>()
            || cause.is::<BadIfname>()
            || cause.is::<Unseemly>();
        cause
            .downcast_ref::<Rejection>()
            .map(of_rejection)
            .or_else(|| cause.downcast_ref::<Away>().map(of_away))
            .or_else(|| cause.downcast_ref::<ipam::Refusal>().map(of_ipam))
            .or_else(|| invalid.then_some((StatusCode::BAD_REQUEST, false)))
    });
    known.unwrap_or((StatusCode::INTERNAL_SERVER_ERROR, false))
}

fn of_rejection(rejection: &Rejection) -> (StatusCode, bool) {
    match rejection {
        Rejection::Invalid(_) => (StatusCode::BAD_REQUEST, false),
        Rejection::Missing(_) => (StatusCode::NOT_FOUND, false),
        Rejection::Conflict(_) => (StatusCode::CONFLICT, false),
        Rejection::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, false),
        Rejection::Later(_) => (StatusCode::SERVICE_UNAVAILABLE, true),
    }
}

fn of_away(away: &Away) -> (StatusCode, bool) {
    (StatusCode::SERVICE_UNAVAILABLE, away.kind != Kind::Refuses)
}

fn of_ipam(refusal: &ipam::Refusal) -> (StatusCode, bool) {
    use ipam::Refusal::*;
    match refusal {
        Away(away) => of_away(away),
        NotInNetwork(..) | Gateway(..) | Edge(_) | TwoOfOneSubnet(..) => (StatusCode::BAD_REQUEST, false),
        NetworkGone(_) => (StatusCode::NOT_FOUND, false),
        Aux(..) | Taken { .. } | InStash { .. } | Exhausted(_) => (StatusCode::CONFLICT, false),
        Contended(_) | NoStash { .. } | NotStashed { .. } => (StatusCode::SERVICE_UNAVAILABLE, true),
    }
}

/// The JSON body of a request. One that does not parse is refused like any other wrong
/// request.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let strange = |what: String| Rejection::invalid(what, "send the fields of this request as JSON");
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|error| strange(format!("the request cannot be read: {error}")))?;
        let value = serde_json::from_slice(&body);
        Ok(Self(value.map_err(|error| strange(format!("the request does not parse: {error}")))?))
    }
}

/// The answer to a path that the socket does not have.
pub(super) async fn no_such_request(request: Request) -> Refused {
    let what = format!("the socket has no {} {}", request.method(), request.uri().path());
    Rejection::missing(what, "use a margay of the agent's version").into()
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    fn of(error: impl Into<anyhow::Error>) -> (u16, bool) {
        let (status, retry) = status(&Err::<(), _>(error.into()).context("attaching").expect_err("one"));
        (status.as_u16(), retry)
    }

    #[test]
    fn typed_cause_decides_the_status_under_any_context() {
        let away = |kind| Away { kind, ..Away::new("no answer", "wait") };
        assert_eq!(of(NetworkError::NoSubnet), (400, false));
        assert_eq!(of(Rejection::missing("there is no network x", "list them")), (404, false));
        assert_eq!(of(Rejection::conflict("it exists", "choose another")), (409, false));
        assert_eq!(of(Rejection::contended("others change it")), (503, true));
        assert_eq!(of(away(Kind::Away)), (503, true));
        assert_eq!(of(away(Kind::Refuses)), (503, false), "no permission comes by itself");
        assert_eq!(of(ipam::Refusal::from(away(Kind::Away))), (503, true));
        assert_eq!(of(ipam::Refusal::NetworkGone("x".into())), (404, false));
        assert_eq!(of(Problem::new("it failed", "see the log")), (500, false));
        assert_eq!(of(anyhow!("something else")), (500, false));
    }
}
