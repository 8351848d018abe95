//! The verifier against services that lie, fail and hang.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use mayfly_verifier::{ConnectError, Credentials, Rejection, Unavailable, Verifier, VerifyError};
use tokio::{net::TcpListener, time::sleep};

const ID: &str = "b56929f3-54f1-4dc2-9984-9bba615e26e6";
const JWT: &str = "eyJh.eyJ1.c2ln";

/// A service whose answers are set.
#[derive(Default)]
struct Answers {
    introspection: Mutex<(u16, String)>,
    changes: Mutex<(u16, String)>,
    introspections: AtomicUsize,
    /// When questions about changes arrived.
    asked: Mutex<Vec<Instant>>,
}

impl Answers {
    fn introspect(&self, status: u16, body: impl Into<String>) {
        *self.introspection.lock().unwrap() = (status, body.into());
    }

    fn change(&self, status: u16, body: impl Into<String>) {
        *self.changes.lock().unwrap() = (status, body.into());
    }
}

fn live(age: &str) -> String {
    format!(r#"{{"active":true,"username":"alice","jti":"{ID}","exp":4102444800,"age_ms":{age}}}"#)
}

fn changes(reset: bool, named: &str) -> String {
    format!(r#"{{"cursor":"x","age_ms":1,"reset":{reset},"tokens":[{named}]}}"#)
}

async fn start() -> (Arc<Answers>, String) {
    let answers = Arc::new(Answers::default());
    answers.introspect(200, live("1"));
    answers.change(200, changes(true, ""));
    let (introspecting, changing) = (Arc::clone(&answers), Arc::clone(&answers));
    let introspect = move || {
        let answers = Arc::clone(&introspecting);
        async move {
            answers.introspections.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(20)).await;
            let (status, body) = answers.introspection.lock().unwrap().clone();
            (StatusCode::from_u16(status).unwrap(), body)
        }
    };
    let change = move || {
        changing.asked.lock().unwrap().push(Instant::now());
        let (status, body) = changing.changes.lock().unwrap().clone();
        async move { (StatusCode::from_u16(status).unwrap(), body) }
    };
    let app = Router::new().route("/oauth2/introspect", post(introspect)).route("/api/v1alpha/changes", get(change));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (answers, url)
}

async fn connect(url: &str) -> Verifier {
    Verifier::connect(url, Credentials::basic("gate", "secret")).await.unwrap()
}

/// Verifies until a renewal has kept the lease for longer than a lease.
async fn renewed(answers: &Answers, verifier: &Verifier) {
    let begun = verifier.stats().renewals;
    while verifier.stats().resets == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    answers.change(200, changes(false, ""));
    while verifier.stats().renewals < begun + 6 {
        verifier.verify(JWT).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    assert!(verifier.verify_leased(JWT, &mayfly_verifier::Demands::new()).is_some());
}

#[tokio::test]
async fn answers_that_make_no_sense_are_neither_valid_nor_revoked() {
    let (answers, url) = start().await;
    let verifier = connect(&url).await;
    for (status, body) in [
        (200, live("-1")),
        (200, live("NaN")),
        (200, live("9999999999")),
        (200, live("18446744073709551615")),
        (200, live("1e400")),
        (200, "{}".into()),
        (200, "x".repeat(2 << 20)),
        (204, String::new()),
        (302, String::new()),
        (404, String::new()),
        (500, live("1")),
        (503, live("1")),
    ] {
        answers.introspect(status, body.clone());
        let result = verifier.verify(JWT).await;
        assert!(matches!(result, Err(VerifyError::Unavailable(_))), "{status} {body:.60}: {result:?}");
    }
    answers.introspect(200, r#"{"active":false}"#);
    assert!(matches!(verifier.verify(JWT).await, Err(VerifyError::Rejected(Rejection::NotLive))));
}

#[tokio::test]
async fn a_lease_ends_when_nothing_renews_it_and_when_the_token_is_named() {
    let (answers, url) = start().await;
    let verifier = connect(&url).await;
    renewed(&answers, &verifier).await;
    answers.introspect(503, "");
    let aged = |age: &str| changes(false, "").replace(":1", &format!(":{age}"));
    for body in [aged("-1"), aged("NaN"), aged("18446744073709551615"), changes(false, "\"x\""), String::new()] {
        answers.change(200, body);
        let begun = Instant::now();
        while verifier.verify(JWT).await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
        // The last question before may have been answered just before.
        assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
        answers.introspect(200, live("1"));
        renewed(&answers, &verifier).await;
        answers.introspect(503, "");
    }
    answers.change(200, changes(false, &format!("\"{ID}\"")));
    let renewals = verifier.stats().renewals;
    while verifier.stats().renewals < renewals + 2 {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(verifier.verify(JWT).await, Err(VerifyError::Unavailable(Unavailable::Status(503)))));
}

#[tokio::test]
async fn concurrent_callers_share_a_question() {
    let (answers, url) = start().await;
    let verifier = connect(&url).await;
    let callers = (0..20).map(|_| {
        let verifier = verifier.clone();
        tokio::spawn(async move { verifier.verify(JWT).await.unwrap() })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    assert_eq!(answers.introspections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_verifier_asks_at_most_twelve_times_a_second_also_while_answers_fail() {
    let (answers, url) = start().await;
    let _verifier = connect(&url).await;
    // While answers fail, the pauses grow to a second.
    let cases = [(30, 200, changes(false, "")), (5, 200, String::new()), (5, 503, String::new())];
    for (count, status, body) in cases {
        answers.change(status, body);
        let begun = answers.asked.lock().unwrap().len();
        let times = loop {
            let times = answers.asked.lock().unwrap()[begun..].to_vec();
            if times.len() >= count {
                break times;
            }
            sleep(Duration::from_millis(5)).await;
        };
        #[expect(clippy::cast_precision_loss, reason = "there are few")]
        let rate = (times.len() - 1) as f64 / (times[times.len() - 1] - times[0]).as_secs_f64();
        assert!(rate <= 12.0, "{rate} a second with {status}");
    }
}

#[tokio::test]
async fn a_wrong_url_and_wrong_credentials_are_errors_of_connect() {
    let credentials = || Credentials::basic("gate", "secret");
    for url in ["", "tokens.example", "ftp://tokens.example", "http://", "http://x?y"] {
        let result = Verifier::connect(url, credentials()).await;
        assert!(matches!(result, Err(ConnectError::Url(_))), "{url}: {result:?}");
    }
    let (answers, url) = start().await;
    for status in [401, 403] {
        answers.change(status, "");
        let result = Verifier::connect(&url, credentials()).await;
        assert!(matches!(result, Err(ConnectError::Unavailable(Unavailable::Credentials(_)))), "{result:?}");
    }
    assert!(!format!("{:?}", credentials()).contains("secret") && !format!("{:?}", credentials()).contains("c2Vj"));
}
