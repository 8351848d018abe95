//! Tokens: of all texts, only the token that was issued is accepted.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use mayfly::service::tokens::VerifyError;
use secrecy::ExposeSecret;

use super::in_process::{InProcess, with_service};

/// Presents the input as a token. An input that begins like JSON is signed with the service's key first: a token that
/// is forged with a stolen key is refused, too.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    with_service(|service| {
        let is_forged = text.starts_with('{');
        let token = if is_forged { sign(text, service) } else { text.to_owned() };
        let is_issued = token == service.jwt;
        service.run(async {
            let accepted = service.services.tokens.verify(&token).await;
            assert_eq!(accepted.is_ok(), is_issued);
            assert!(!matches!(accepted, Err(VerifyError::Store(_))));
            assert_eq!(service.services.tokens.inspect_presented(&token).await.is_ok(), is_issued);
            let admin = service.services.login.find_enabled_user(&"admin".parse().unwrap()).await.unwrap().unwrap();
            assert_eq!(service.services.tokens.introspect(&admin, &token).await.unwrap().is_some(), is_issued);
            if !is_issued {
                assert!(service.services.tokens.revoke_presented(&token).await.is_err());
            }
        });
        let keys = &service.services.keys.current_keys().set;
        if let Ok(claims) = keys.verify(&token) {
            assert!(is_forged || is_issued);
            assert_eq!(keys.verify(keys.sign(&claims).expose_secret()), Ok(claims));
        }
    });
}

/// A token of these claims, signed with the first key.
fn sign(claims: &str, service: &InProcess) -> String {
    let (header, _) = service.jwt.split_once('.').unwrap();
    let message = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims));
    let secret: Vec<u8> = (0..32).collect();
    let key = EncodingKey::from_secret(&secret);
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}
