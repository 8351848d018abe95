// Uses the client that oapi-codegen generated as a service would.
package main

import (
	"context"
	"log"
	"net/http"
	"os"

	"github.com/google/uuid"
)

func check(ok bool, what string) {
	if !ok {
		log.Fatal(what)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	ctx := context.Background()
	login := func(_ context.Context, request *http.Request) error {
		request.SetBasicAuth(os.Getenv("MAYFLY_NAME"), os.Getenv("MAYFLY_PASSWORD"))
		return nil
	}
	client := must(NewClientWithResponses(os.Getenv("MAYFLY_URL"), WithRequestEditorFn(login)))

	request := TokenRequest{JwtTokenDescription: "go", JwtTokenLife: "1 hour"}
	issued := must(client.IssueTokenWithResponse(ctx, &IssueTokenParams{}, request)).JSON201
	check(issued != nil, "issue")
	id := uuid.MustParse(issued.JwtTokenId)
	list := must(client.ListTokensWithResponse(ctx, &ListTokensParams{})).JSON200
	check(list != nil && list.JwtTokens[issued.JwtTokenId].JwtTokenDescription == "go", "list")
	details := must(client.InspectTokenWithResponse(ctx, id)).JSON200
	check(details != nil && details.JwtTokenDescription == "go", "inspect")
	form := TokenForm{Token: issued.JwtToken}
	check(must(client.IntrospectTokenWithFormdataBodyWithResponse(ctx, form)).JSON200.Active, "introspect")
	check(must(client.RevokeTokenWithResponse(ctx, id)).JSON200.Message == "Token deleted", "revoke")
	check(!must(client.IntrospectTokenWithFormdataBodyWithResponse(ctx, form)).JSON200.Active, "introspect what was revoked")
	role := Introspector
	added := must(client.AddUserWithResponse(ctx, UserRequest{Username: "go", Role: &role, Password: "secret"})).JSON201
	check(added != nil && added.Role == role, "add a user")
}
