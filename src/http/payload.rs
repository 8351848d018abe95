//! Bodies of requests and answers. Requests are parsed strictly.

use std::time::Duration;

use http_body_util::{BodyExt, combinators::BoxBody};
use poem::{
    IntoResponse, Request, RequestBody, Response, Result,
    http::{HeaderValue, StatusCode, header},
    web::Json as JsonResponse,
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions,
    error::ContentTypeError,
    impl_apirequest_for_payload,
    payload::{ParsePayload, Payload},
    registry::{MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchemaRef, Registry},
    types::Type,
};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::problem::Problem;

/// The maximum size of a request's body.
pub(super) const MAX_BODY_BYTES: usize = 16 * 1024;

/// The maximum size of a [`LongJson`]: 10,000 ids have 390,000 bytes.
pub(super) const MAX_LONG_BODY_BYTES: usize = 512 * 1024;

/// The media types of request bodies.
pub(super) const JSON: &str = "application/json";
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// Longest time for a client to send a body.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Implements poem-openapi's traits for a body of this media type, parsed by this function, of at most this size.
macro_rules! body {
    ($body:ident, $media_type:expr, $parse:path, $max_bytes:expr) => {
        impl<T: Type> Payload for $body<T> {
            const CONTENT_TYPE: &'static str = $media_type;

            fn check_content_type(content_type: &str) -> bool {
                is_media_type(content_type, $media_type)
            }

            fn schema_ref() -> MetaSchemaRef {
                T::schema_ref()
            }

            fn register(registry: &mut Registry) {
                T::register(registry);
            }
        }

        impl<T: Type + DeserializeOwned> ParsePayload for $body<T> {
            const IS_REQUIRED: bool = true;

            async fn from_request(request: &Request, body: &mut RequestBody) -> Result<Self> {
                Ok(Self($parse(&read_body(request, body, $max_bytes).await?)?))
            }
        }

        impl_apirequest_for_payload!($body<T>, T: Type + DeserializeOwned);
    };
}

/// A body of JSON. poem-openapi documents its type, serde parses and writes it: unlike poem-openapi, serde rejects
/// duplicate fields, rejects unknown ones where the type denies them, and keeps the order of a map.
pub(super) struct Json<T>(pub(super) T);

body!(Json, JSON, parse_json, MAX_BODY_BYTES);

/// A [`Json`] that may have [`MAX_LONG_BODY_BYTES`]. An operation takes it after the caller's login, so that strangers
/// cannot fill the memory.
pub(super) struct LongJson<T>(pub(super) T);

body!(LongJson, JSON, parse_json, MAX_LONG_BODY_BYTES);

/// A body of form fields, for OAuth's endpoints. Unknown fields are ignored, repeated ones rejected (RFC 6749, section
/// 3.2).
pub(super) struct Form<T>(pub(super) T);

body!(Form, FORM, parse_form, MAX_BODY_BYTES);

fn parse_form<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_urlencoded::from_bytes(bytes).map_err(|error| Problem::bad_request(format!("The body: {error}.")))
}

/// Parses a JSON object.
fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Those of UTF-8, and of UTF-16 in both byte orders. JSON is sent without any (RFC 8259, section 8.1).
    let byte_order_marks: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe"];
    if byte_order_marks.iter().any(|mark| bytes.starts_with(mark)) {
        return Err(Problem::bad_request("The body begins with a byte order mark (BOM): send UTF-8 without one."));
    }
    // serde would also accept an array of the fields' values.
    if bytes.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(Problem::bad_request("The body must be a JSON object."));
    }
    let mut body = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut body).map_err(|error| {
        // Of a missing or unknown field, the message has the name.
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { format!("{path}: ") };
        Problem::bad_request(format!("The body: {field}{}.", error.inner()))
    })?;
    body.end().map_err(|error| Problem::bad_request(format!("The body: {error}.")))?;
    Ok(parsed)
}

/// Deserializes an optional field, and rejects `null`.
pub(super) fn not_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(field: D) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

/// Reads the body of a request. A body that is too large by its Content-Length is rejected unread.
async fn read_body(request: &Request, body: &mut RequestBody, max_bytes: usize) -> Result<Vec<u8>, Problem> {
    let unreadable = || Problem::bad_request("The body of the request could not be read.");
    let length = request.header(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    if length.is_some_and(|length: u64| length > max_bytes as u64) {
        return Err(body_too_large(max_bytes));
    }
    let mut codings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let detail = "The body must not be compressed: send it without Content-Encoding.";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
            .with_header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    }
    let mut body = BoxBody::from(body.take().map_err(|_| unreadable())?);
    let mut bytes = Vec::new();
    let reading = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| unreadable())?.into_data() else { continue };
            if data.len() > max_bytes - bytes.len() {
                return Err(body_too_large(max_bytes));
            }
            // Copied: a part that is kept keeps hyper's buffer of 8 KB, even if it has one byte. poem copies, too, but
            // by a buffer of 4 KB in the memory of each request.
            bytes.extend_from_slice(&data);
        }
        Ok(())
    };
    timeout(BODY_TIMEOUT, reading).await.map_err(|_| body_too_slow())??;
    Ok(bytes)
}

/// 408: the body did not arrive within [`BODY_TIMEOUT`].
pub(super) fn body_too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "The body of the request took too long to arrive.")
}

/// 413: the body has more than this.
pub(super) fn body_too_large(max_bytes: usize) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("A body is at most {max_bytes} bytes."))
}

/// 415: the operation takes a body of this media type.
pub(super) fn media_type_expected(media_type: &str) -> Problem {
    let detail = format!("The body must be of another type: send it with Content-Type: {media_type}.");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
}

impl<T: Serialize + Send> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        // Answers hold tokens and facts about them, which no cache may keep.
        JsonResponse(self.0).with_header(header::CACHE_CONTROL, "no-store").into_response()
    }
}

impl<T: Type + Serialize> ApiResponse for Json<T> {
    fn meta() -> MetaResponses {
        let content = vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema: T::schema_ref() }];
        let ok =
            MetaResponse { description: "OK", status: Some(200), status_range: None, content, headers: Vec::new() };
        MetaResponses { responses: vec![ok] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// An optional body of JSON; without one, the default.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<'a, T: Type + DeserializeOwned + Default> ApiExtractor<'a> for OptionalJson<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Json<T> as ApiExtractor>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        <Json<T> as ApiExtractor>::request_meta().map(|meta| MetaRequest { required: false, ..meta })
    }

    async fn from_request(request: &'a Request, body: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        let bytes = read_body(request, body, MAX_BODY_BYTES).await?;
        // Without a body its type does not matter: some clients always set one, and `curl -d ''` that of a form.
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        match request.content_type() {
            Some(content_type) if Json::<T>::check_content_type(content_type) => Ok(Self(parse_json(&bytes)?)),
            _ => Err(ContentTypeError::ExpectContentType.into()),
        }
    }
}

/// The answer to a request that created something.
#[derive(ApiResponse)]
pub(super) enum Created<T: Type + Serialize + Send> {
    /// Created.
    #[oai(status = 201)]
    Created(
        Json<T>,
        /// The path of what was created.
        #[oai(header = "Location")]
        String,
    ),
}

/// The answer to a request for a list.
#[derive(ApiResponse)]
pub(super) enum Paged<T: Type + Serialize + Send> {
    /// The list, or a page of it.
    #[oai(status = 200)]
    Ok(
        Json<T>,
        /// The next page, with `rel="next"` (RFC 8288); absent on the last one.
        #[oai(header = "Link")]
        Option<String>,
    ),
}

/// Whether a `Content-Type` is this media type, whatever its parameters.
fn is_media_type(content_type: &str, expected: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(expected)
}
