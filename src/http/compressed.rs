//! Texts that never change while the service runs, compressed for clients that accept it.

use std::{io::Write, sync::Arc};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use poem::{
    Endpoint, Request, Response,
    endpoint::make,
    get,
    http::{HeaderMap, header},
};
use tokio::{sync::OnceCell, task::spawn_blocking};

/// Serves a text, compressed for clients that accept gzip: the documentation has 1.9 MB, and 0.4 MB compressed.
///
/// It is compressed for the first of them, beside all other requests: at the start, the documentation made the first
/// answer 32 ms later (`cargo bench --bench service start`).
pub(super) fn compressed_text(content_type: &'static str, text: String) -> impl Endpoint {
    // All answers share these two buffers: many slow clients need no more memory.
    let (compressed, plain) = (Arc::new(OnceCell::new()), Bytes::from(text));
    get(make(move |request: Request| {
        let (compressed, plain) = (Arc::clone(&compressed), plain.clone());
        async move {
            let response = Response::builder().content_type(content_type).header(header::VARY, "Accept-Encoding");
            if !accepts_gzip(request.headers()) {
                return response.body(plain);
            }
            let compress = || async { spawn_blocking(move || compress(&plain)).await.expect("it does not panic") };
            response.header(header::CONTENT_ENCODING, "gzip").body(compressed.get_or_init(compress).await.clone())
        }
    }))
}

fn compress(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes all").into()
}

/// Whether a client accepts gzip: `gzip`, or else `*`, has a weight above 0 (RFC 9110, section 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok());
    let weights: Vec<_> = lists.flat_map(|list| list.split(',')).map(parse_coding).collect();
    let accepted = |name: &str| weights.iter().find(|(coding, _)| *coding == name).map(|(_, is_accepted)| *is_accepted);
    accepted("gzip").or_else(|| accepted("*")).unwrap_or(false)
}

/// A coding of `Accept-Encoding`, and whether its weight is above 0.
fn parse_coding(element: &str) -> (String, bool) {
    let (coding, parameters) = element.split_once(';').unwrap_or((element, ""));
    let q = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), |q| q.trim().parse::<f32>());
    (coding.trim().to_ascii_lowercase(), q.is_ok_and(|q| q > 0.0))
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    #[test]
    fn gzip_is_for_clients_that_accept_it() {
        for (accepted, expected) in [
            (&["gzip, deflate, br, zstd"][..], true),
            (&["deflate", "GZIP;q=0.1"], true),
            (&["*"], true),
            (&["br, *;q=0.5"], true),
            (&[], false),
            (&[""], false),
            (&["identity"], false),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.000, *"], false),
            (&["*;q=0"], false),
            (&["gzip; q=x"], false),
        ] {
            let headers = accepted.iter().map(|list| (header::ACCEPT_ENCODING, HeaderValue::from_static(list)));
            assert_eq!(accepts_gzip(&headers.collect()), expected, "{accepted:?}");
        }
    }
}
