//! `/kubernetes`: tokens for kube-apiserver, which asks this webhook who a request comes from (its flag
//! `--authentication-token-webhook-config-file`).

use std::{collections::BTreeMap, sync::Arc};

use poem::{Request, web::Data};
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::{auth::BasicOrBearerUser, payload::Json, problem::Problem, services::Services, tags::Tag};
use crate::{
    domain::{
        attributes::Attribute as _,
        demands::{Demands, Unmet},
    },
    service::tokens::{AcceptError, VerifyError},
    store::leased::ActiveToken,
};

const API_VERSION: &str = "authentication.k8s.io/v1";
const KIND: &str = "TokenReview";

/// The operations for Kubernetes.
pub(super) struct KubernetesApi;

/// A `TokenReview` of `authentication.k8s.io/v1`, with a token to review. Other members are ignored: kube-apiserver
/// sends all that the type has.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase")]
struct TokenReviewRequest {
    /// `authentication.k8s.io/v1`
    api_version: String,
    /// `TokenReview`
    kind: String,
    /// The token to review.
    spec: TokenReviewSpec,
}

/// A token, and for whom it has to be.
#[derive(Deserialize, Object)]
struct TokenReviewSpec {
    /// The JWT.
    token: String,
    /// The names of the API server: the token needs at least one of them as its audience. Without any, each audience is
    /// right.
    #[serde(default)]
    audiences: Option<Vec<String>>,
}

/// A `TokenReview` of `authentication.k8s.io/v1`, with the result.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase")]
struct TokenReviewResponse {
    /// `authentication.k8s.io/v1`
    api_version: String,
    /// `TokenReview`
    kind: String,
    /// The result.
    status: TokenReviewStatus,
}

/// The result of a review.
#[derive(Default, Serialize, Object)]
#[oai(skip_serializing_if_is_none)]
struct TokenReviewStatus {
    /// Whether the token is live and for one of the audiences.
    authenticated: bool,
    /// Whose token it is, if it is authenticated.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<TokenReviewUser>,
    /// The audiences of the request that the token has, if the request named any.
    #[serde(skip_serializing_if = "Option::is_none")]
    audiences: Option<Vec<String>>,
    /// Why the token is not authenticated.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The user of a token, as Kubernetes knows users.
#[derive(Serialize, Object)]
struct TokenReviewUser {
    /// The name of the token's owner. No name has a colon, so none is one of `system:`.
    username: String,
    /// For RBAC and the audit log of Kubernetes: `mayfly/token-id`, and `mayfly/scopes` if the token has scopes.
    extra: BTreeMap<String, Vec<String>>,
}

#[OpenApi(prefix_path = "/kubernetes", tag = "Tag::Services")]
impl KubernetesApi {
    /// Review a token for Kubernetes
    ///
    /// The webhook of kube-apiserver: answers a `TokenReview` with the user of a live token, or with the reason why it
    /// is not authenticated. Needs the role `introspector` or `admin`.
    #[oai(path = "/tokenreview", method = "post", operation_id = "reviewToken")]
    async fn review(
        &self,
        services: Data<&Arc<Services>>,
        request: &Request,
        BasicOrBearerUser(_caller): BasicOrBearerUser,
        review: Json<TokenReviewRequest>,
    ) -> Result<Json<TokenReviewResponse>, Problem> {
        let Json(TokenReviewRequest { api_version, kind, spec }) = review;
        // Authenticated again: the user may have changed while the body arrived.
        let BasicOrBearerUser(caller) = BasicOrBearerUser::of(request).await?;
        if !caller.role.may_introspect() {
            return Err(Problem::introspectors_only());
        }
        if (&*api_version, &*kind) != (API_VERSION, KIND) {
            return Err(Problem::bad_request(format!("apiVersion, kind: send a {KIND} of {API_VERSION}.")));
        }
        let audiences = spec.audiences.unwrap_or_default();
        let demands = Demands::for_any_audience(&audiences);
        // Kubernetes does not tell the address of its client.
        let status = match services.tokens.accept(&spec.token, &demands, || None).await {
            Ok(token) => TokenReviewStatus::authenticated(&token, audiences),
            Err(AcceptError::Verify(VerifyError::Store(error))) => return Err(error.into()),
            Err(error) => TokenReviewStatus::rejected(&error),
        };
        Ok(Json(TokenReviewResponse { api_version, kind, status }))
    }
}

impl TokenReviewStatus {
    fn authenticated(token: &ActiveToken, mut audiences: Vec<String>) -> Self {
        let attributes = &token.attributes;
        audiences.retain(|audience| attributes.audiences.contains(audience));
        let mut extra = BTreeMap::from([("mayfly/token-id".to_owned(), vec![token.signed.id.to_string()])]);
        let scopes: Vec<_> = attributes.scopes.entries().collect();
        if !scopes.is_empty() {
            extra.insert("mayfly/scopes".into(), scopes);
        }
        Self {
            authenticated: true,
            user: Some(TokenReviewUser { username: token.signed.owner.to_string(), extra }),
            audiences: Some(audiences).filter(|audiences| !audiences.is_empty()),
            error: None,
        }
    }

    fn rejected(error: &AcceptError) -> Self {
        let reason = match error {
            AcceptError::Verify(VerifyError::Expired) => "The token has expired.",
            AcceptError::Verify(_) => "The token is not valid.",
            AcceptError::Unmet(Unmet::Audience) => "The token is for none of these audiences.",
            AcceptError::Unmet(_) => {
                "The token may be used from some networks only, and Kubernetes does not say where its client is."
            }
        };
        Self { error: Some(reason.into()), ..Self::default() }
    }
}
