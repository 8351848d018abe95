//! The examples of `deploy/logins`, with JWTs as GitHub, GitLab, Kubernetes and OpenID providers document them.

use std::fs;

use rstest::rstest;
use serde_json::{Value, json};

use super::{Trusting, VERIFY};
use crate::support::{
    Backend,
    issuer::{IssuerKey, now},
};

/// The claims that each JWT has.
fn common(issuer: &str) -> Value {
    let (now, aud) = (now(), "https://mayfly.example");
    json!({"iss": issuer, "aud": aud, "iat": now, "nbf": now - 5, "exp": now + 300, "jti": "x"})
}

fn merged(mut claims: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn github() -> Value {
    let more = json!({
        "sub": "repo:acme/shop:ref:refs/heads/main", "ref": "refs/heads/main", "sha": "7a3b", "repository": "acme/shop",
        "repository_owner": "acme", "actor_id": "12", "repository_visibility": "private", "repository_id": "74",
        "repository_owner_id": "65", "run_id": "1", "run_number": "10", "run_attempt": "2",
        "runner_environment": "github-hosted", "actor": "octocat", "workflow": "deploy", "head_ref": "", "base_ref": "",
        "event_name": "push", "ref_type": "branch", "ref_protected": "true",
        "job_workflow_ref": "acme/shop/.github/workflows/deploy.yml@refs/heads/main"
    });
    merged(common("https://token.actions.githubusercontent.com"), &more)
}

fn gitlab() -> Value {
    let more = json!({
        "sub": "project_path:acme/shop:ref_type:branch:ref:main", "namespace_id": "72", "namespace_path": "acme",
        "project_id": "20", "project_path": "acme/shop", "user_id": "1", "user_login": "octocat",
        "user_email": "octocat@example.com", "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}],
        "user_access_level": "developer", "pipeline_id": "574", "pipeline_source": "push", "job_id": "302",
        "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true",
        "groups_direct": ["acme/ops"], "runner_id": 1, "runner_environment": "self-hosted", "sha": "7a3b",
        "project_visibility": "public"
    });
    merged(common("https://gitlab.com"), &more)
}

fn kubernetes() -> Value {
    let more = json!({
        "aud": ["https://mayfly.example"], "sub": "system:serviceaccount:shop:deployer",
        "kubernetes.io": {
            "namespace": "shop", "node": {"name": "a", "uid": "x"}, "pod": {"name": "deployer-7d9f", "uid": "x"},
            "serviceaccount": {"name": "deployer", "uid": "x"}, "warnafter": now() + 3607
        }
    });
    merged(common("https://kubernetes.default.svc.cluster.local"), &more)
}

fn person() -> Value {
    let more = json!({
        "aud": "mayfly-cli", "sub": "248289761001", "email": "alice@acme.example", "email_verified": true,
        "hd": "acme.example", "preferred_username": "admin", "auth_time": now(), "groups": ["admins"]
    });
    merged(common("https://id.example/realms/acme"), &more)
}

#[rstest]
#[case("github-actions", "RS256", github(), "ci-acme", &[
    json!({"repository": "acme/shop2"}), json!({"ref": "refs/pull/7/merge"}), json!({"event_name": "pull_request"}),
    json!({"aud": "https://github.com/acme"}),
])]
#[case("gitlab-ci", "RS256", gitlab(), "ci-20", &[
    json!({"project_path": "evil/shop"}), json!({"ref_protected": "false"}), json!({"ref_type": "tag"}),
])]
#[case("kubernetes", "RS256", kubernetes(), "shop.deployer", &[
    json!({"kubernetes.io": {"namespace": "evil", "serviceaccount": {"name": "deployer"}}}),
    json!({"kubernetes.io": {"namespace": "shop"}}),
    json!({"aud": ["https://kubernetes.default.svc.cluster.local"]}),
])]
#[case("openid", "ES256", person(), "alice@acme.example", &[
    json!({"email_verified": false}), json!({"email_verified": "true"}), json!({"hd": "evil.example"}),
    json!({"aud": "another-client"}),
])]
fn an_example_lets_in_what_it_says(
    #[case] page: &str,
    #[case] alg: &'static str,
    #[case] claims: Value,
    #[case] user: &str,
    #[case] refused: &[Value],
) {
    let text = fs::read_to_string(format!("{}/deploy/logins/{page}.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (_, rest) = text.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    // The rules as written, with the keys of this test.
    let key = IssuerKey::new("a", alg);
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("jwks.json");
    fs::write(&keys, json!({"keys": [key.jwk()]}).to_string()).unwrap();
    let rules: Vec<_> = example.lines().filter(|line| !line.starts_with("jwks_file")).collect();
    let rules = format!("{}\njwks_file = \"{}\"\n", rules.join("\n"), keys.display());
    let trusting = Trusting::start(Backend::Memory, &rules);

    let header = json!({"alg": alg, "kid": "a", "x5t": "dGh1bWJwcmludA"});
    let answer = trusting.exchange(&key.sign_with(&header, &claims), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    let verified = trusting.service.client().with_bearer(&token).get(VERIFY).send();
    assert_eq!(verified.header("x-auth-user"), user);
    for change in refused {
        let jwt = key.sign_with(&header, &merged(claims.clone(), change));
        assert_eq!(trusting.exchange(&jwt, &[]).status, 400, "{change}");
    }
}
