#include "edge/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "temp_folder.h"
#include "token_fixture.h"

namespace sigmacast::edge {
namespace {

using namespace testing;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

AuthSettings required() {
    AuthSettings auth;
    auth.required = true;
    auth.secret = kSecret;
    return auth;
}

std::unique_ptr<Access> access(const AuthSettings& auth) {
    auto made = Access::make(auth);
    EXPECT_TRUE(made) << (made ? "" : made.error().message);
    return std::move(made.value());
}

http::Request request(http::Headers headers = {}, std::string query = {}) {
    http::Request made;
    made.query = std::move(query);
    made.headers = std::move(headers);
    return made;
}

/// "none", "bad", or whose token it was.
std::string admitted(const Access& by, const http::Request& from) {
    const auto grant = by.admit(from, kNow);
    return !grant ? "bad" : *grant ? "of " + (*grant)->subject : "none";
}

std::string token_of(const std::string& subject) {
    return hs_token(R"({"sub":")" + subject + R"(","exp":1800000060})");
}

TEST(Grant, ByDefaultIsEverything) {
    EXPECT_TRUE(Grant{}.allows("any.thing"));
}

TEST(Grant, APatternIsOneTopicOrAllBelowOne) {
    const Grant grant{
        .subject = {}, .everything = false, .topics = {"system.status", "agent.*"}, .expires = {}};
    for (const char* topic : {"system.status", "agent.status", "agent.task_failed", "agent.a.b"}) {
        EXPECT_TRUE(grant.allows(topic)) << topic;
    }
    for (const char* topic : {"system.status2", "system", "agent", "agent.", "agents.x", "*", "",
                              "storage.update", "agent.*x"}) {
        EXPECT_EQ(grant.allows(topic), std::string(topic) == "agent.*x") << topic;
    }
}

TEST(Grant, HeartbeatsAreEveryones) {
    EXPECT_TRUE((Grant{.subject = {}, .everything = false, .topics = {}, .expires = {}})
                    .allows("heartbeat"));
}

TEST(Access, WithoutRequiredTokensAreNotEvenLookedAt) {
    AuthSettings off = required();
    off.required = false;
    off.roles = {{"none", {"system.status"}}};
    const auto by = access(off);
    EXPECT_FALSE(by->required());
    for (const auto& from : {request(), request({{"authorization", "Bearer nonsense"}})}) {
        const auto grant = by->admit(from, kNow);
        ASSERT_TRUE(grant && *grant);
        EXPECT_TRUE((*grant)->everything);
        EXPECT_FALSE((*grant)->expires);
    }
}

TEST(Access, ATokenIsFoundInEachPlaceInTheirOrder) {
    AuthSettings all = required();
    all.cookie = "sid";
    all.query_token = true;
    const auto by = access(all);
    http::Request from = request();
    EXPECT_EQ(admitted(*by, from), "none");
    from.query = "a=b&token=" + token_of("query");
    EXPECT_EQ(admitted(*by, from), "of query");
    from.headers.emplace_back("cookie", "a=b; xsid=x; sid=" + token_of("cookie") + "; c=d");
    EXPECT_EQ(admitted(*by, from), "of cookie");
    from.headers.emplace_back("sec-websocket-protocol", "sigmacast.v1.json");
    from.headers.emplace_back("sec-websocket-protocol",
                              "x , sigmacast.token." + token_of("offer") + ", y");
    EXPECT_EQ(admitted(*by, from), "of offer");
    from.headers.emplace_back("authorization", "bearer  " + token_of("header"));
    EXPECT_EQ(admitted(*by, from), "of header");
}

TEST(Access, CookieAndQueryCountOnlyWhereTheyAreSwitchedOn) {
    const std::string token = token_of("ann");
    EXPECT_EQ(admitted(*access(required()),
                       request({{"cookie", "=" + token + "; sid=" + token}}, "token=" + token)),
              "none");
}

TEST(Access, ABadTokenIsNotPassedOverForAnother) {
    EXPECT_EQ(
        admitted(*access(required()), request({{"authorization", "Bearer x"},
                                               {"sec-websocket-protocol",
                                                std::string(kTokenProtocol) + token_of("ann")}})),
        "bad");
    for (const char* empty : {"Bearer", "Bearer "}) {
        EXPECT_EQ(admitted(*access(required()), request({{"authorization", empty}})), "bad");
    }
}

TEST(Access, AnotherSchemeOfAuthorizationIsNoToken) {
    for (const char* other : {"Basic dXNlcjpwdw==", "Digest x", "Bearers x", "", "Bear"}) {
        EXPECT_EQ(admitted(*access(required()), request({{"authorization", other}})), "none");
    }
}

TEST(Access, WithoutRolesEachGoodTokenSeesEverythingUntilItExpires) {
    const auto grant = access(required())->verify(hs_token(), kNow);
    ASSERT_TRUE(grant) << grant.error().message;
    EXPECT_TRUE(grant->everything);
    EXPECT_EQ(grant->subject, "ann");
    EXPECT_EQ(grant->expires, kNow + Seconds{60} + kTokenLeeway);
}

TEST(Access, WithRolesATokenSeesTheTopicsOfAllItsRolesAndNoOthers) {
    AuthSettings auth = required();
    auth.roles = {{"viewer", {"system.status"}}, {"operator", {"agent.*"}}, {"root", {"*"}}};
    const auto by = access(auth);
    const auto both = by->verify(hs_token(), kNow);  // viewer and operator
    ASSERT_TRUE(both);
    EXPECT_TRUE(both->allows("system.status"));
    EXPECT_TRUE(both->allows("agent.status"));
    EXPECT_FALSE(both->allows("storage.update"));
    for (const char* roles : {"[]", "\"\"", "[\"stranger\"]", "[\"Viewer\"]", "7"}) {
        const auto none =
            by->verify(hs_token(R"({"exp":1800000060,"roles":)" + std::string(roles) + "}"), kNow);
        ASSERT_TRUE(none) << roles;
        EXPECT_FALSE(none->allows("system.status")) << roles;
    }
    const auto root = by->verify(hs_token(R"({"exp":1800000060,"roles":["root"]})"), kNow);
    EXPECT_TRUE(root->everything);
}

TEST(Access, AnExpiredTokenIsToldFromAForgedOne) {
    const auto by = access(required());
    EXPECT_EQ(by->verify(hs_token(R"({"exp":1799999990})"), kNow).error().code, Errc::kTimeout);
    EXPECT_EQ(by->verify(hs_token(kGood, kHs256, "x"), kNow).error().code, Errc::kInvalid);
}

std::string refusal(const AuthSettings& auth) {
    const auto made = Access::make(auth);
    return made ? "" : made.error().message;
}

TEST(Access, RequiredWithoutAGoodSecretIsRefusedAndTheSecretIsNotRepeated) {
    AuthSettings auth = required();
    auth.secret.clear();
    EXPECT_THAT(refusal(auth), AllOf(StartsWith("auth.secret: "), HasSubstr("SIGMAVAULT_JWT")));
    for (const char* bad :
         {"short-but-odd-31-bytes-long-q7zx", "your-256-bit-secret-change-me-please",
          "sigmavault-CHANGE-THIS-in-production", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
          "super_secret_0123456789abcdef0123456789"}) {
        auth.secret = std::string(bad).substr(0, bad[0] == 's' && bad[1] == 'h' ? 31 : 64);
        EXPECT_THAT(refusal(auth), AllOf(StartsWith("auth.secret: "), Not(HasSubstr(auth.secret))))
            << bad;
    }
    auth.required = false;
    EXPECT_EQ(refusal(auth), "") << "the deployment sets it for its REST service";
}

TEST(Access, APublicKeyThatCannotBeReadOrIsNoneIsRefused) {
    const TempFolder folder;
    AuthSettings auth = required();
    auth.algorithm = "RS256";
    EXPECT_THAT(refusal(auth), StartsWith("auth.public_key_file: "));
    auth.public_key_file = folder.file("key.pem");
    EXPECT_THAT(refusal(auth), HasSubstr("cannot be read"));
    std::ofstream(auth.public_key_file) << "no key";
    EXPECT_THAT(refusal(auth), AllOf(StartsWith("auth.public_key_file: "), HasSubstr("PEM")));
}

TEST(Access, WithAPublicKeyItsTokensAreBelievedAndTheSecretsAreNot) {
    const TempFolder folder;
    const Rsa key(2048);
    AuthSettings auth = required();
    auth.algorithm = "RS256";
    auth.public_key_file = folder.file("key.pem");
    std::ofstream(auth.public_key_file) << key.public_pem();
    const auto by = access(auth);
    EXPECT_TRUE(by->verify(key.token(), kNow));
    EXPECT_FALSE(by->verify(hs_token(), kNow));
}

}  // namespace
}  // namespace sigmacast::edge
