//! [`RevokingWrites`] in Redis. Each is sent at once; [`LeasedStore::write`](crate::store::leased::LeasedStore::write)
//! waits for the leases afterwards.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    CreationReply, RedisStore, TOKENS_PER_SCRIPT,
    admins::ChangeAttempt,
    creation_write, keys, milliseconds,
    records::{self, RepetitionReply, UserReply},
    scripts::SCRIPTS,
    write::Write,
};
use crate::{
    domain::{
        idempotency::IdempotencyKey,
        password::PasswordHash,
        token::{Token, TokenDigest, TokenId},
        user::{LoginEpoch, UserName, UserUpdate},
    },
    store::{
        Authority, NewToken, Repetition, RevokingWrites, Rotation, Store, StoreError, StoreResult, UpdatedUser,
        UserChange,
    },
};

/// How long the number of a user's removal is kept: longer than any change that began before can take.
const REMOVAL_TTL: Duration = Duration::from_hours(24);

#[async_trait]
impl RevokingWrites for RedisStore {
    async fn revoke_token(&self, by: &Authority, owner: &UserName, id: TokenId) -> StoreResult<bool> {
        let write = Write::to_user(&SCRIPTS.revoke_token, owner, by);
        self.connections.delete(&revocation_write(write, owner, id, None)).await
    }

    async fn revoke_presented(
        &self,
        owner: &UserName,
        id: TokenId,
        digest: TokenDigest,
        is_ours: bool,
    ) -> StoreResult<bool> {
        let write = revocation_write(Write::without_authority(&SCRIPTS.revoke_token, owner), owner, id, Some(digest));
        self.connections.write_for_holder(&write, is_ours).await
    }

    async fn wait_for_replication(&self, owner: &UserName) -> StoreResult<()> {
        if self.connections.waits_for_replicas() {
            let write = Write::without_authority(&SCRIPTS.mark, owner).keys([keys::user(owner)]).repeatable();
            let _unchanged: u8 = self.connections.write(&write).await?;
        }
        Ok(())
    }

    async fn revoke_tokens(&self, by: &Authority, owner: &UserName) -> StoreResult<u64> {
        // It does not run after its own answer, so tokens that are created afterwards stay.
        let write = self.write_to_user(&SCRIPTS.revoke_tokens, owner, by);
        let write = write.keys(keys::token_records(owner)).arg(keys::token_prefix(owner));
        self.connections.write(&write).await
    }

    async fn revoke_listed(
        &self,
        by: &Authority,
        owner: &UserName,
        ids: &HashSet<TokenId>,
    ) -> StoreResult<HashSet<TokenId>> {
        let ids: Vec<_> = ids.iter().map(TokenId::to_string).collect();
        let mut revoked = HashSet::new();
        for (part, ids) in ids.chunks(TOKENS_PER_SCRIPT).enumerate() {
            let write = Write::to_user(&SCRIPTS.revoke_listed, owner, by)
                .repeatable()
                .keys(keys::token_records(owner))
                .arg(keys::token_prefix(owner))
                .arg(ids);
            let reply: StoreResult<Vec<String>> = self.connections.write(&write).await;
            let found = if part == 0 { reply } else { reply.map_err(StoreError::into_unconfirmed) }?;
            revoked.extend(found.iter().filter_map(|id| id.parse::<TokenId>().ok()));
        }
        Ok(revoked)
    }

    async fn rotate_token(&self, old: &Token, overlap: Duration, new: NewToken<'_>) -> StoreResult<Rotation> {
        let rotated = Token { successor: Some(new.token.id), ..old.clone() };
        let write = creation_write(new, None)
            .until(self.connections.deadline())
            .keys([keys::token(new.owner, old.id)])
            .arg(old.id.to_string())
            .arg(records::encode_token(&rotated))
            .arg(milliseconds(overlap));
        match self.create_within_quota(new.owner, &write).await? {
            CreationReply::Repeated(repetition) => Ok(Rotation::Repeated(repetition)),
            CreationReply::Code(1) => Ok(Rotation::Rotated),
            CreationReply::Code(0 | -1) => Ok(Rotation::QuotaReached),
            CreationReply::Code(-3) => Ok(Rotation::AlreadyRotated),
            CreationReply::Code(-5) => Ok(Rotation::TooManyKeys),
            CreationReply::Code(_) => Ok(Rotation::NoSuchToken),
        }
    }

    async fn find_repetition(
        &self,
        owner: &UserName,
        login: LoginEpoch,
        key: &IdempotencyKey,
    ) -> StoreResult<Option<Repetition>> {
        let write = Write::to_user(&SCRIPTS.find_repetition, owner, &Authority::Login(login))
            .repeatable()
            .keys([keys::idempotency(owner, key)])
            .arg(keys::token_prefix(owner));
        let found: Option<RepetitionReply> = self.connections.write(&write).await?;
        found.map(records::decode_repetition).transpose()
    }

    async fn update_user(
        &self,
        by: &Authority,
        name: &UserName,
        update: UserUpdate,
    ) -> StoreResult<UserChange<UpdatedUser>> {
        let attempt = |number| self.try_update(by, name, number, update);
        self.make_numbered_change(by, name, update.ends_administration(), attempt).await
    }

    /// Ends all logins with the old password, and revokes all tokens if `revoke_tokens`.
    async fn set_password(
        &self,
        by: &Authority,
        name: &UserName,
        hash: &PasswordHash,
        revoke_tokens: bool,
    ) -> StoreResult<UserChange<u64>> {
        let write = self.update_write(by, name, None, records::encode_password(hash), revoke_tokens);
        let (revoked, _): UserReply = self.connections.write(&write).await?;
        Ok(match revoked {
            -1 => UserChange::NoSuchUser,
            -3 => UserChange::NoPassword,
            revoked => UserChange::Done(revoked.unsigned_abs()),
        })
    }

    async fn replace_hash(&self, name: &UserName, old: &PasswordHash, new: &PasswordHash) -> StoreResult<bool> {
        let [field, old] = records::password_field(old);
        let [_, new] = records::password_field(new);
        // The old hash proves the right: only a login that verified the password against it knows it.
        let write = Write::without_authority(&SCRIPTS.replace_hash, name).keys([keys::user(name)]).repeatable();
        self.connections.write(&write.arg(field).arg(old).arg(new)).await
    }

    async fn remove_user(&self, by: &Authority, name: &UserName) -> StoreResult<UserChange<u64>> {
        let removed = self.make_numbered_change(by, name, true, |number| self.try_removal(by, name, number)).await?;
        if removed != UserChange::LastAdmin {
            self.finish_removal(name).await.map_err(StoreError::into_unconfirmed)?;
        }
        Ok(removed)
    }
}

impl RedisStore {
    /// One attempt at [`Self::update_user`], under this number.
    async fn try_update(
        &self,
        by: &Authority,
        name: &UserName,
        number: u64,
        update: UserUpdate,
    ) -> StoreResult<ChangeAttempt<UpdatedUser>> {
        let write =
            self.update_write(by, name, Some(number), records::encode_update(update), update.disabled == Some(true));
        let attempt = read_user_reply(self.connections.write(&write).await?, |tokens_revoked, fields| {
            let user = records::decode_user(name, &fields)?.ok_or(StoreError::Corrupt("user"))?;
            Ok(UpdatedUser { user, tokens_revoked })
        })?;
        if let ChangeAttempt::Finished(UserChange::Done(updated)) = &attempt
            && updated.user.is_enabled_admin()
            && !self.register_admin(name, number).await.map_err(StoreError::into_unconfirmed)?
        {
            return Ok(ChangeAttempt::Superseded(number));
        }
        Ok(attempt)
    }

    /// One attempt at [`Self::remove_user`], under this number.
    async fn try_removal(&self, by: &Authority, name: &UserName, number: u64) -> StoreResult<ChangeAttempt<u64>> {
        let write = self
            .write_to_user(&SCRIPTS.remove_user, name, by)
            .keys([keys::user(name)])
            .keys(keys::token_records(name))
            .keys([keys::last_removal(name), keys::idempotency_index(name)])
            .arg(number)
            .arg(keys::token_prefix(name))
            .arg(milliseconds(REMOVAL_TTL));
        read_user_reply(self.connections.write(&write).await?, |revoked, _| Ok(revoked))
    }

    /// The write that sets these fields of a user. `number`: that of the change; `None`: a new password, which leaves
    /// the administrators as they are.
    fn update_write(
        &self,
        by: &Authority,
        name: &UserName,
        number: Option<u64>,
        fields: Vec<String>,
        revoke_tokens: bool,
    ) -> Write {
        self.write_to_user(&SCRIPTS.update_user, name, by)
            .keys([keys::user(name)])
            .keys(keys::token_records(name))
            .keys([keys::last_removal(name)])
            .arg(number.map(|number| number.to_string()).unwrap_or_default())
            .arg(if revoke_tokens { keys::token_prefix(name) } else { String::new() })
            .arg(fields)
    }

    /// Removes the name of a user who was removed from the names of all users.
    async fn finish_removal(&self, name: &UserName) -> StoreResult<()> {
        self.run_name_script(&SCRIPTS.remove_name, &self.authority_to_complete(), name).await?;
        // The user may have been created again in between. If this breaks off, repeating either change mends it.
        if self.find_user(name).await?.is_some() {
            self.run_name_script(&SCRIPTS.add_name, &self.authority_to_complete(), name).await?;
        }
        Ok(())
    }
}

/// Adds to `write` the keys and arguments that revoke a token. `digest`: only if its JWT has it; `None`: any. The write
/// is repeatable: an id is never used again, so a second run does nothing if the first one ran.
fn revocation_write(write: Write, owner: &UserName, id: TokenId, digest: Option<TokenDigest>) -> Write {
    write
        .repeatable()
        .keys([keys::token(owner, id)])
        .keys(keys::token_records(owner))
        .arg(id.to_string())
        .arg(digest.map(TokenDigest::to_base64).unwrap_or_default())
}

/// Reads the reply of a script that changes a user; `done` makes the result from the number of tokens revoked and the
/// fields of the user, if the change took place.
fn read_user_reply<T>(
    (revoked, fields): UserReply,
    done: impl FnOnce(u64, HashMap<String, String>) -> StoreResult<T>,
) -> StoreResult<ChangeAttempt<T>> {
    match revoked {
        -1 => Ok(ChangeAttempt::Finished(UserChange::NoSuchUser)),
        -2 => Ok(ChangeAttempt::Superseded(records::decode_change_number(&fields)?)),
        _ => Ok(ChangeAttempt::Finished(UserChange::Done(done(revoked.unsigned_abs(), fields)?))),
    }
}
