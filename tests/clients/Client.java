import java.util.Base64;
import java.util.UUID;
import org.openapitools.client.ApiClient;
import org.openapitools.client.api.ServicesApi;
import org.openapitools.client.api.TokensApi;
import org.openapitools.client.api.UsersApi;
import org.openapitools.client.model.Role;
import org.openapitools.client.model.TokenRequest;
import org.openapitools.client.model.UserRequest;

/** What a service does with the client that openapi-generator generated. */
public final class Client {
    public static void main(String[] arguments) throws Exception {
        String login = System.getenv("MAYFLY_NAME") + ":" + System.getenv("MAYFLY_PASSWORD");
        String credentials = Base64.getEncoder().encodeToString(login.getBytes());
        ApiClient client = new ApiClient();
        client.updateBaseUri(System.getenv("MAYFLY_URL"));
        client.setRequestInterceptor(request -> request.header("Authorization", "Basic " + credentials));
        TokensApi tokens = new TokensApi(client);
        ServicesApi services = new ServicesApi(client);

        var issued = tokens.issueToken(new TokenRequest().jwtTokenDescription("java").jwtTokenLife("1 hour"));
        UUID id = UUID.fromString(issued.getJwtTokenId());
        check(tokens.listTokens(null, null).getJwtTokens().containsKey(issued.getJwtTokenId()), "list");
        check(tokens.inspectToken(id).getJwtTokenDescription().equals("java"), "inspect");
        check(services.introspectToken(issued.getJwtToken(), null).getActive(), "introspect");
        check(tokens.revokeToken(id).getMessage().equals("Token deleted"), "revoke");
        check(!services.introspectToken(issued.getJwtToken(), null).getActive(), "introspect what was revoked");
        var user = new UserRequest().username("java").role(Role.INTROSPECTOR).password("secret");
        check(new UsersApi(client).addUser(user).getRole() == Role.INTROSPECTOR, "add a user");
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
