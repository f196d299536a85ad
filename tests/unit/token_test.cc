#include "edge/token.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include "token_fixture.h"

namespace sigmacast::edge {
namespace {

using namespace testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TokenTest : public ::testing::Test {
 protected:
    static std::unique_ptr<TokenVerifier> verifier(TokenRules rules = {.secret = kSecret}) {
        auto made = TokenVerifier::make(std::move(rules));
        EXPECT_TRUE(made) << (made ? "" : made.error().message);
        return std::move(made.value());
    }
    static const Rsa& rsa() {
        static const Rsa key(2048);
        return key;
    }
    static std::unique_ptr<TokenVerifier> rsa_verifier() {
        return verifier({.algorithm = "RS256", .public_key = rsa().public_pem()});
    }
    /// The reason of the refusal; empty where the token was believed.
    static std::string refusal(const TokenVerifier& by, const std::string& token) {
        const auto claims = by.verify(token, kNow);
        return claims ? "" : claims.error().message;
    }
};

TEST_F(TokenTest, AGoodTokenTellsWhoItIsAndWhatForAndHowLong) {
    const auto claims = verifier()->verify(hs_token(), kNow);
    ASSERT_TRUE(claims) << claims.error().message;
    EXPECT_EQ("ann", claims->subject);
    EXPECT_THAT(claims->roles, ElementsAre("viewer", "operator"));
    EXPECT_EQ(kNow + Seconds{60} + Seconds{5}, claims->expires);
}

TEST_F(TokenTest, AGoodTokenSignedWithAnRsaKeyIsBelieved) {
    const auto claims = rsa_verifier()->verify(rsa().token(), kNow);
    ASSERT_TRUE(claims) << claims.error().message;
    EXPECT_EQ("ann", claims->subject);
}

TEST_F(TokenTest, RolesMayBeOneTextOrAClaimOfAnotherName) {
    const std::string payload = R"({"exp":1800000060,"scope":" a  b","roles":"c"})";
    EXPECT_THAT(verifier()->verify(hs_token(payload), kNow)->roles, ElementsAre("c"));
    EXPECT_THAT(verifier({.secret = kSecret, .roles_claim = "scope"})
                    ->verify(hs_token(payload), kNow)
                    ->roles,
                ElementsAre("a", "b"));
}

// Forgeries. Each is refused while the good token beside it is believed.

TEST_F(TokenTest, ATokenWithoutASignatureIsRefused) {
    for (const char* none : {"none", "None", "NONE", "nOnE"}) {
        const std::string header = R"({"alg":")" + std::string(none) + R"("})";
        EXPECT_NE("", refusal(*verifier(), signing_input(header, kGood) + ".")) << none;
        EXPECT_NE("", refusal(*rsa_verifier(), signing_input(header, kGood) + ".")) << none;
        EXPECT_NE("", refusal(*verifier(), hs_token(kGood, header))) << none;
    }
    EXPECT_NE("", refusal(*verifier(), signing_input(kHs256, kGood) + "."));
    EXPECT_NE("", refusal(*verifier(), signing_input(kHs256, kGood)));
}

TEST_F(TokenTest, ThePublicKeyIsNoSecret) {
    EXPECT_NE("", refusal(*rsa_verifier(), hs_token(kGood, kHs256, rsa().public_pem())));
    EXPECT_NE("", refusal(*rsa_verifier(), hs_token(kGood, kRs256, rsa().public_pem())));
}

TEST_F(TokenTest, AnAlgorithmThatIsNotTheConfiguredOneIsRefused) {
    EXPECT_NE("", refusal(*verifier(), rsa().token()));
    EXPECT_NE("", refusal(*verifier(), hs_token(kGood, R"({"alg":"HS384"})")));
    EXPECT_NE("", refusal(*verifier(), hs_token(kGood, R"({"typ":"JWT"})")));
    EXPECT_NE("", refusal(*verifier(), hs_token(kGood, R"({"alg":["HS256"]})")));
    EXPECT_NE("", refusal(*verifier(), hs_token(kGood, R"({"alg":"HS256","alg":"none"})")));
}

TEST_F(TokenTest, ASignatureOfAnotherKeyIsRefused) {
    EXPECT_NE("", refusal(*verifier(), hs_token(kGood, kHs256, kSecret + "x")));
    EXPECT_NE("", refusal(*verifier(), hs_token(kGood, kHs256, "")));
    EXPECT_NE("", refusal(*rsa_verifier(), Rsa(2048).token()));
}

TEST_F(TokenTest, AKeyInTheHeaderIsNotFollowed) {
    const std::string header = R"({"alg":"HS256","jwk":{"kty":"oct","k":")" + base64url("mine") +
                               R"("},"jku":"http://127.0.0.1/","kid":"../../dev/null"})";
    EXPECT_NE("", refusal(*verifier(), hs_token(kGood, header, "mine")));
}

TEST_F(TokenTest, AnyChangeOfAnyCharacterIsRefused) {
    const std::string good = hs_token();
    const auto by = verifier();
    ASSERT_EQ("", refusal(*by, good));
    for (std::size_t i = 0; i < good.size(); ++i) {
        for (const char other : {'A', 'z', '=', '.', ' ', '\0', '\n'}) {
            // The last character of a part has bits that mean nothing.
            const bool last = i + 1 == good.size() || good[i + 1] == '.';
            std::string changed = good;
            changed[i] = other;
            if (changed != good && !(last && other != '.' && std::isalnum(other) != 0)) {
                EXPECT_NE("", refusal(*by, changed)) << "character " << i;
            }
        }
        EXPECT_NE("", refusal(*by, good.substr(0, i))) << "cut at " << i;
    }
    EXPECT_NE("", refusal(*by, good + "."));
    EXPECT_NE("", refusal(*by, good + "A"));
    EXPECT_NE("", refusal(*by, "." + good));
}

TEST_F(TokenTest, AnExtensionThatMustBeUnderstoodIsRefused) {
    EXPECT_NE(
        "", refusal(*verifier(), hs_token(kGood, R"({"alg":"HS256","crit":["b64"],"b64":false})")));
    for (const char* critical : {R"(["exp"])", R"([])", R"("exp")", "1", "true", "{}"}) {
        const std::string header = std::string(R"({"alg":"HS256","crit":)") + critical + "}";
        EXPECT_NE("", refusal(*verifier(), hs_token(kGood, header))) << header;
    }
}

TEST_F(TokenTest, ATokenOutsideItsTimeIsRefused) {
    const auto by = verifier();
    const auto ended = by->verify(hs_token(R"({"exp":1799999990})"), kNow);
    ASSERT_FALSE(ended);
    EXPECT_EQ(Errc::kTimeout, ended.error().code);
    EXPECT_EQ("", refusal(*by, hs_token(R"({"exp":1799999997})"))) << "within the leeway";
    EXPECT_THAT(refusal(*by, hs_token(R"({"exp":1800000060,"nbf":1800000030})")),
                HasSubstr("not valid yet"));
    EXPECT_EQ("", refusal(*by, hs_token(R"({"exp":1800000060,"nbf":1800000003})")));
}

TEST_F(TokenTest, ATokenWithoutAnEndOrWithANonsenseOneIsRefused) {
    for (const char* payload :
         {R"({"sub":"ann"})", R"({"exp":"1800000060"})", R"({"exp":null})", R"({"exp":-1})",
          R"({"exp":1e300})", R"({"exp":true})", R"({"exp":99999999999999999999})",
          R"({"exp":1800000060,"nbf":"x"})", R"({"exp":253402300800})"}) {
        EXPECT_NE("", refusal(*verifier(), hs_token(payload))) << payload;
    }
}

TEST_F(TokenTest, AnotherIssuerOrAudienceIsRefusedWhereOneIsConfigured) {
    EXPECT_EQ("", refusal(*verifier({.secret = kSecret, .issuer = "nas", .audience = "web"}),
                          hs_token()));
    EXPECT_EQ("", refusal(*verifier({.secret = kSecret, .audience = "web"}),
                          hs_token(R"({"exp":1800000060,"aud":"web"})")));
    EXPECT_NE("", refusal(*verifier({.secret = kSecret, .issuer = "other"}), hs_token()));
    EXPECT_NE("", refusal(*verifier({.secret = kSecret, .audience = "we"}), hs_token()));
    EXPECT_NE("", refusal(*verifier({.secret = kSecret, .audience = "web"}),
                          hs_token(R"({"exp":1800000060})")));
}

TEST_F(TokenTest, ClaimsThatAreNoObjectOrTooDeepOrTooLongAreRefused) {
    for (const std::string& payload :
         {std::string("[]"), std::string("1"), std::string("{"), std::string(),
          std::string(R"({"exp":1800000060} x)"),
          R"({"exp":1800000060,"x":)" + std::string(20, '[') + std::string(20, ']') + "}",
          R"({"exp":1800000060,"x":")" + std::string(kTokenBytesMax, 'x') + "\"}"}) {
        EXPECT_NE("", refusal(*verifier(), hs_token(payload))) << payload.substr(0, 40);
    }
}

TEST_F(TokenTest, NoRefusalRepeatsAnythingOfTheToken) {
    const std::string token = hs_token(R"({"sub":"confidential"})");
    const std::string why = refusal(*verifier(), token);
    EXPECT_EQ(std::string::npos, why.find(token.substr(0, 8)));
    EXPECT_EQ(std::string::npos, why.find("confidential"));
}

TEST_F(TokenTest, KeysThatAreTooWeakOrAreNoneAreRefusedAtStart) {
    const auto why = [](TokenRules rules) {
        const auto made = TokenVerifier::make(std::move(rules));
        return made ? "" : made.error().message;
    };
    EXPECT_THAT(why({}), HasSubstr("shorter than 32 bytes"));
    EXPECT_THAT(why({.secret = "changeme"}), HasSubstr("shorter than 32 bytes"));
    EXPECT_THAT(why({.algorithm = "none", .secret = kSecret}), HasSubstr("HS256 or RS256"));
    EXPECT_THAT(why({.algorithm = "RS256", .secret = kSecret}), HasSubstr("not an RSA key"));
    EXPECT_THAT(why({.algorithm = "RS256", .public_key = Rsa(1024).public_pem()}),
                HasSubstr("fewer than 2048 bits"));
}

}  // namespace
}  // namespace sigmacast::edge
