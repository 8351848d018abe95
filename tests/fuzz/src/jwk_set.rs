//! The file of signing keys: keys that load can sign and verify, also after a rotation and after a prune.

use std::time::Duration;

use mayfly::domain::{claims::Claims, jwk::Algorithm, key_rotation, keys::KeySet, life::Life};
use secrecy::ExposeSecret;

use super::in_process::NOW;

/// Reads the input as a JWK Set.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let rotated = key_rotation::rotate(text, Some(Algorithm::Hs256), NOW, Some(Duration::ZERO));
    let pruned = key_rotation::prune(text, Duration::from_hours(24), NOW);
    let Ok(keys) = KeySet::parse(text) else { return };
    check_signing(&keys);

    let rotated = KeySet::parse(rotated.unwrap().expose_secret()).unwrap();
    check_signing(&rotated);
    assert!(rotated.ids().skip(1).eq(keys.ids()));
    let known = rotated.verify(keys.sign(&claims()).expose_secret());
    assert_eq!(known, Ok(claims()));

    let (pruned, gone) = pruned.unwrap();
    let pruned = KeySet::parse(pruned.expose_secret()).unwrap();
    check_signing(&pruned);
    let kept: Vec<_> = pruned.ids().collect();
    assert!(keys.ids().all(|id| kept.contains(&id) != gone.iter().any(|gone| gone == id)));
    assert_eq!(kept.len() + gone.len(), keys.ids().count());
}

fn check_signing(keys: &KeySet) {
    assert_eq!(keys.verify(keys.sign(&claims()).expose_secret()), Ok(claims()));
    assert!(keys.public_keys().len() <= keys.ids().count());
}

fn claims() -> Claims {
    let id = "b56929f3-54f1-4dc2-9984-9bba615e26e6".parse().unwrap();
    let (owner, description) = ("alice".parse().unwrap(), "Token specter".parse().unwrap());
    Claims::new(&owner, id, &description, Life::from_seconds(3_600).unwrap(), NOW, None)
}
