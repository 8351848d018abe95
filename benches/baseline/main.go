// The baseline of `make bench`: what a team would write in a day, with net/http, golang-jwt and go-redis.
//
// A token is a JWT and one key with a TTL, beside a sorted set of each user's ids. It promises less than Mayfly: it
// throttles no logins, writes no audit events, waits for no lease, and has no quota.
//
//	POST   /token      {"description": "…", "life": 86400}, Basic    issues a token
//	GET    /token                                           Basic    lists the user's tokens
//	DELETE /token/{id}                                      Basic    revokes a token
//	GET    /verify                                          Bearer   200 or 401
//
// Arguments: the address of Redis. Prints its own address. Any user may log in with the password "secret".
package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"golang.org/x/crypto/bcrypt"
)

type service struct {
	redis *redis.Client
	key   []byte
	// The bcrypt hash that all users share, and the logins that it has verified.
	hash   []byte
	logins sync.Map
}

type record struct {
	Description string `json:"description"`
	Life        int64  `json:"life"`
}

type listed struct {
	record
	Remaining float64 `json:"remaining"`
}

func main() {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		log.Fatal(err)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.DefaultCost)
	if err != nil {
		log.Fatal(err)
	}
	s := &service{redis: redis.NewClient(&redis.Options{Addr: os.Args[1]}), key: key, hash: hash}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", s.loggedIn(s.issue))
	mux.HandleFunc("GET /token", s.loggedIn(s.list))
	mux.HandleFunc("DELETE /token/{id}", s.loggedIn(s.revoke))
	mux.HandleFunc("GET /verify", s.verify)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, mux))
}

// loggedIn checks the password. A login that was verified before costs a SHA-256 instead of a bcrypt.
func (s *service) loggedIn(handle func(http.ResponseWriter, *http.Request, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		if !ok {
			http.Error(w, "log in", http.StatusUnauthorized)
			return
		}
		login := sha256.Sum256([]byte(user + ":" + password))
		if _, known := s.logins.Load(login); !known {
			if bcrypt.CompareHashAndPassword(s.hash, []byte(password)) != nil {
				http.Error(w, "wrong password", http.StatusUnauthorized)
				return
			}
			s.logins.Store(login, true)
		}
		handle(w, r, user)
	}
}

func tokenKey(user, id string) string { return "tokens:" + user + ":" + id }
func indexKey(user string) string     { return "tokens:" + user }

func (s *service) issue(w http.ResponseWriter, r *http.Request, user string) {
	var request record
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16384)).Decode(&request); err != nil || request.Life < 1 {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	id, now := uuid.NewString(), time.Now()
	life := time.Duration(request.Life) * time.Second
	claims := jwt.MapClaims{"sub": user, "jti": id, "iat": now.Unix(), "exp": now.Add(life).Unix()}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(s.key)
	if err != nil {
		http.Error(w, "cannot sign", http.StatusInternalServerError)
		return
	}
	digest := sha256.Sum256([]byte(token))
	value, _ := json.Marshal(map[string]any{
		"description": request.Description, "life": request.Life, "digest": hex.EncodeToString(digest[:]),
	})
	_, err = s.redis.TxPipelined(r.Context(), func(pipe redis.Pipeliner) error {
		pipe.Set(r.Context(), tokenKey(user, id), value, life)
		pipe.ZAdd(r.Context(), indexKey(user), redis.Z{Score: float64(now.UnixMicro()), Member: id})
		return nil
	})
	if err != nil {
		http.Error(w, "unavailable", http.StatusServiceUnavailable)
		return
	}
	answer(w, http.StatusCreated, map[string]any{"id": id, "token": token, "life": request.Life})
}

func (s *service) list(w http.ResponseWriter, r *http.Request, user string) {
	ids, err := s.redis.ZRevRange(r.Context(), indexKey(user), 0, -1).Result()
	tokens := make(map[string]listed, len(ids))
	if err == nil {
		tokens, err = s.read(r.Context(), user, ids)
	}
	if err != nil {
		http.Error(w, "unavailable", http.StatusServiceUnavailable)
		return
	}
	answer(w, http.StatusOK, map[string]any{"tokens": tokens})
}

func (s *service) read(ctx context.Context, user string, ids []string) (map[string]listed, error) {
	values, lives := make([]*redis.StringCmd, len(ids)), make([]*redis.DurationCmd, len(ids))
	_, err := s.redis.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			values[i], lives[i] = pipe.Get(ctx, tokenKey(user, id)), pipe.PTTL(ctx, tokenKey(user, id))
		}
		return nil
	})
	if err != nil && err != redis.Nil {
		return nil, err
	}
	tokens := make(map[string]listed, len(ids))
	for i, id := range ids {
		var token listed
		if value, err := values[i].Bytes(); err == nil && json.Unmarshal(value, &token.record) == nil {
			token.Remaining = lives[i].Val().Seconds()
			tokens[id] = token
		}
	}
	return tokens, nil
}

func (s *service) revoke(w http.ResponseWriter, r *http.Request, user string) {
	id := r.PathValue("id")
	var deleted *redis.IntCmd
	_, err := s.redis.TxPipelined(r.Context(), func(pipe redis.Pipeliner) error {
		deleted = pipe.Del(r.Context(), tokenKey(user, id))
		pipe.ZRem(r.Context(), indexKey(user), id)
		return nil
	})
	if err != nil {
		http.Error(w, "unavailable", http.StatusServiceUnavailable)
	} else if deleted.Val() == 0 {
		http.Error(w, "no such token", http.StatusNotFound)
	} else {
		answer(w, http.StatusOK, map[string]any{"message": "deleted"})
	}
}

func (s *service) verify(w http.ResponseWriter, r *http.Request) {
	presented, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	claims := jwt.MapClaims{}
	if ok {
		_, err := jwt.ParseWithClaims(presented, claims, func(*jwt.Token) (any, error) { return s.key, nil },
			jwt.WithValidMethods([]string{"HS256"}))
		ok = err == nil
	}
	if !ok {
		http.Error(w, "not a live token", http.StatusUnauthorized)
		return
	}
	user, _ := claims["sub"].(string)
	id, _ := claims["jti"].(string)
	live, err := s.redis.Exists(r.Context(), tokenKey(user, id)).Result()
	if err != nil {
		http.Error(w, "unavailable", http.StatusServiceUnavailable)
	} else if live == 0 {
		http.Error(w, "not a live token", http.StatusUnauthorized)
	} else {
		w.Header().Set("X-Auth-User", user)
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
