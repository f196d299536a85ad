#include "common/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace sigmacast {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

const std::string kKey = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";
const std::string kOtherKey = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";

class SettingsTest : public testing::Test {
 protected:
    Result<Settings> parse(const std::string& text) {
        notes_.clear();
        return parse_settings(
            text, "x.toml",
            [this](const char* name) -> const char* {
                const auto it = environment_.find(name);
                return it == environment_.end() ? nullptr : it->second.c_str();
            },
            notes_);
    }

    Settings good(const std::string& text) {
        const Result<Settings> settings = parse(text);
        EXPECT_TRUE(settings.has_value()) << (settings ? "" : settings.error().message);
        return settings ? *settings : Settings{};
    }

    std::string problems(const std::string& text) {
        const Result<Settings> settings = parse(text);
        EXPECT_FALSE(settings.has_value()) << text;
        return settings ? "" : settings.error().message;
    }

    std::map<std::string, std::string> environment_;
    std::vector<std::string> notes_;
};

TEST_F(SettingsTest, AnEmptyFileIsTheDefaults) {
    const Settings settings = good("");
    EXPECT_EQ(settings.edge.port, 12080);
    EXPECT_EQ(settings.broker.feed, "tcp://127.0.0.1:12071");
    EXPECT_EQ(settings.producer.engine_url, "http://127.0.0.1:5000/api/v1");
    EXPECT_THAT(notes_, IsEmpty());
}

TEST_F(SettingsTest, TheDefaultPollsAreTheContractsEight) {
    std::vector<std::string> rows;
    for (const PollSettings& poll : default_settings().producer.polls) {
        EXPECT_EQ(poll.name, poll.method);
        EXPECT_EQ(poll.interval, Millis(5000));
        EXPECT_EQ(poll.deadline, Millis(3000));
        rows.push_back(poll.method + " " + poll.params + " " + poll.topic + " " + poll.key + " " +
                       poll.mapper + " " + poll.error_code);
    }
    EXPECT_THAT(rows,
                ElementsAre("system.status {} system.status  system SYSTEM_STATUS_FAILED",
                            "compression.queue.running {\"include_pending\":true,\"limit\":50} "
                            "compression.update  jobs COMPRESSION_JOBS_FAILED",
                            "agents.list {} agent.status  agents AGENT_STATUS_FAILED",
                            "storage.pools.list  storage.update pools storage STORAGE_POOLS_FAILED",
                            "storage.disks.list  storage.update disks storage STORAGE_DISKS_FAILED",
                            "agents.scheduler.metrics  scheduler.metrics  as_is "
                            "SCHEDULER_METRICS_FAILED",
                            "agents.recovery.status  recovery.status  as_is RECOVERY_STATUS_FAILED",
                            "agents.tuning.status  tuning.status  as_is TUNING_STATUS_FAILED"));
}

TEST_F(SettingsTest, TheDefaultFileIsAcceptedAndReadsAsTheDefaults) {
    const Settings read = good(default_config_text());
    const Settings defaults = default_settings();
    ASSERT_EQ(read.producer.polls.size(), defaults.producer.polls.size());
    for (std::size_t i = 0; i < read.producer.polls.size(); ++i) {
        EXPECT_EQ(read.producer.polls[i].name, defaults.producer.polls[i].name);
        EXPECT_EQ(read.producer.polls[i].params, defaults.producer.polls[i].params);
        EXPECT_EQ(read.producer.polls[i].key, defaults.producer.polls[i].key);
        EXPECT_EQ(read.producer.polls[i].mapper, defaults.producer.polls[i].mapper);
        EXPECT_EQ(read.producer.polls[i].error_code, defaults.producer.polls[i].error_code);
        EXPECT_EQ(read.producer.polls[i].deadline, defaults.producer.polls[i].deadline);
    }
    EXPECT_EQ(read.broker.retain_events, defaults.broker.retain_events);
    EXPECT_EQ(read.edge.clients_max, defaults.edge.clients_max);
    EXPECT_EQ(read.edge.client_queue_bytes_max, defaults.edge.client_queue_bytes_max);
    EXPECT_EQ(read.producer.transport_breaker.reset, defaults.producer.transport_breaker.reset);
    EXPECT_EQ(read.log_level, defaults.log_level);
}

TEST_F(SettingsTest, ReadsEverySection) {
    const Settings s = good(R"(
data_dir = "/srv/x"
[log]
level = "debug"
[engine]
host = "::1"
port = 0
compress_folders = ["/srv/media"]
compress_workers = 4
compress_level = 19
[producer]
origin = "nas@home"
engine_url = "http://127.0.0.1:5001/api/v1/rpc"
health_interval = "0s"
[producer.poll_breaker]
failures = 2
reset = "1m30s"
[producer.transport_breaker]
failures = 3
[broker]
feed = "ipc:///run/s/feed"
retain_values = "90m"
retain_bytes = 2_000_000
[edge]
topics = ["system.status"]
cors_origins = ["https://nas.example:8443", "*"]
[auth]
required = true
algorithm = "RS256"
secret = "s"
public_key_file = "/etc/k.pem"
issuer = "i"
audience = "a"
roles_claim = "groups"
query_token = true
first_message_timeout = "2s"
[[auth.role]]
name = "viewer"
topics = ["system.status", "agent.*"]
[[auth.role]]
name = "root"
topics = ["*"]
)");
    EXPECT_EQ(s.data_dir, "/srv/x");
    EXPECT_EQ(s.log_level, "debug");
    EXPECT_EQ(s.engine.host, "::1");
    EXPECT_EQ(s.engine.port, 0);
    EXPECT_THAT(s.engine.compress_folders, ElementsAre("/srv/media"));
    EXPECT_EQ(s.engine.compress_workers, 4u);
    EXPECT_EQ(s.engine.compress_level, 19u);
    EXPECT_EQ(s.producer.origin, "nas@home");
    EXPECT_EQ(s.producer.engine_url, "http://127.0.0.1:5001/api/v1");
    EXPECT_EQ(s.producer.health_interval, Millis(0));
    EXPECT_EQ(s.producer.poll_breaker.failures, 2u);
    EXPECT_EQ(s.producer.poll_breaker.reset, Millis(90'000));
    EXPECT_EQ(s.producer.transport_breaker.failures, 3u);
    EXPECT_EQ(s.broker.feed, "ipc:///run/s/feed");
    EXPECT_EQ(s.broker.retain_values, Millis(90 * 60'000));
    EXPECT_EQ(s.broker.retain_bytes, 2'000'000u);
    EXPECT_THAT(s.edge.topics, ElementsAre("system.status"));
    EXPECT_THAT(s.edge.cors_origins, ElementsAre("https://nas.example:8443", "*"));
    EXPECT_TRUE(s.auth.required);
    EXPECT_EQ(s.auth.algorithm, "RS256");
    EXPECT_EQ(s.auth.secret, "s");
    EXPECT_EQ(s.auth.public_key_file, "/etc/k.pem");
    EXPECT_EQ(s.auth.issuer, "i");
    EXPECT_EQ(s.auth.audience, "a");
    EXPECT_EQ(s.auth.roles_claim, "groups");
    EXPECT_TRUE(s.auth.query_token);
    EXPECT_EQ(s.auth.first_message_timeout, Millis(2'000));
    ASSERT_EQ(s.auth.roles.size(), 2u);
    EXPECT_EQ(s.auth.roles[0].name, "viewer");
    EXPECT_THAT(s.auth.roles[0].topics, ElementsAre("system.status", "agent.*"));
    EXPECT_THAT(s.auth.roles[1].topics, ElementsAre("*"));
}

TEST_F(SettingsTest, RolesAreCheckedRowByRow) {
    const std::string role = "[[auth.role]]\nname = \"a\"\ntopics = [\"*\"]\n";
    EXPECT_THAT(problems(role + role), HasSubstr("'a' is the name of an earlier role"));
    EXPECT_THAT(problems("[[auth.role]]\nname = \"a\"\n"),
                HasSubstr("x.toml:1: auth.role.topics: is missing"));
    EXPECT_THAT(problems("[[auth.role]]\ntopics = [\"*\"]\n"),
                HasSubstr("auth.role.name: is missing"));
    EXPECT_THAT(problems("[[auth.role]]\nnam = \"a\"\n"),
                HasSubstr("did you mean auth.role.name?"));
    EXPECT_THAT(problems("[auth]\nrole = 1\n"), HasSubstr("[[auth.role]]"));
    for (const char* pattern : {"", "**", "agent*", "*.status", ".*", "a.*.b", "A"}) {
        EXPECT_THAT(
            problems("[[auth.role]]\nname = \"a\"\ntopics = [\"" + std::string(pattern) + "\"]\n"),
            HasSubstr("x.toml:3: auth.role.topics: "))
            << pattern;
    }
}

TEST_F(SettingsTest, WhatIsWrongInAuthIsNamed) {
    EXPECT_THAT(problems("[auth]\nalgorithm = \"none\"\n"),
                HasSubstr("'none' is none of HS256, RS256"));
    EXPECT_THAT(problems("[auth]\ncookie = \"a b\"\n"), HasSubstr("name of a cookie"));
    EXPECT_THAT(problems("[auth]\nfirst_message_timeout = \"2m\"\n"), HasSubstr("out of range"));
    const std::string cookie = "[auth]\nrequired = true\ncookie = \"sid\"\n";
    EXPECT_THAT(problems(cookie + "[edge]\ncors_origins = [\"*\"]\n"),
                HasSubstr("x.toml:3: auth.cookie: "));
    good(cookie + "[edge]\ncors_origins = [\"https://nas.example\"]\n");
    EXPECT_THAT(problems("[auth]\nsecret = 12345678\n"), Not(HasSubstr("12345678")));
}

TEST_F(SettingsTest, AuthThatIsThereByHalfIsNoted) {
    good("[auth]\nsecret = \"s\"\n");
    EXPECT_THAT(notes_, IsEmpty()) << "the secret is there for the REST service, too";
    good("[[auth.role]]\nname = \"a\"\ntopics = [\"*\"]\n");
    EXPECT_THAT(notes_, ElementsAre(HasSubstr("no effect without required = true")));
    notes_.clear();
    good("[auth]\nrequired = true\nallow_anonymous_lan = true\n");
    EXPECT_THAT(notes_, ElementsAre(HasSubstr("no effect with required = true")));
}

TEST_F(SettingsTest, WhatMovedToAuthIsReadWhereItWasWithANote) {
    const Settings s =
        good("[edge]\nhost = \"0.0.0.0\"\njwt_secret = \"s\"\nallow_anonymous_lan = true\n");
    EXPECT_EQ(s.auth.secret, "s");
    EXPECT_TRUE(s.auth.allow_anonymous_lan);
    EXPECT_THAT(notes_, ElementsAre(HasSubstr("edge.allow_anonymous_lan is called"),
                                    HasSubstr("edge.jwt_secret is called auth.secret now"),
                                    HasSubstr("open to anyone")));
    EXPECT_THAT(problems("[edge]\njwt_secret = 1\n"), HasSubstr("x.toml:2: edge.jwt_secret: "));
}

TEST_F(SettingsTest, AddressesThatMeanNothingAreRefused) {
    EXPECT_THAT(problems("[edge]\nhost = \"999.1.1.1\"\n"),
                HasSubstr("x.toml:2: edge.host: '999.1.1.1' is not an IPv4 address"));
    EXPECT_THAT(problems("[engine]\nhost = \"127.0.0\"\n"), HasSubstr("is not an IPv4 address"));
    EXPECT_THAT(problems("[edge]\ncors_origins = [\"https://*.example\"]\n"),
                HasSubstr("has a wildcard"));
    const std::string url =
        problems("[producer]\nengine_url = \"http://me:secret@127.0.0.1:5000/api/v1\"\n");
    EXPECT_THAT(url, HasSubstr("names a user or a password"));
    EXPECT_THAT(url, Not(HasSubstr("secret")));
}

TEST_F(SettingsTest, RowsOfPollsReplaceTheDefaultOnes) {
    const Settings s = good(R"(
[[producer.poll]]
method = "ups.status"
topic = "ups"
interval = "1s"
rename = { v = "volts" }
ignore = ["now"]
)");
    ASSERT_EQ(s.producer.polls.size(), 1u);
    const PollSettings& poll = s.producer.polls[0];
    EXPECT_EQ(poll.name, "ups.status");
    EXPECT_EQ(poll.mapper, "as_is");
    EXPECT_EQ(poll.error_code, "UPS_STATUS_FAILED");
    EXPECT_EQ(poll.deadline, Millis(2000)) << "the default, cut to interval + 1 s";
    EXPECT_EQ(poll.rename.at("v"), "volts");
    EXPECT_THAT(poll.ignore, ElementsAre("now"));
}

TEST_F(SettingsTest, AnEmptyListOfPollsIsNone) {
    EXPECT_THAT(good("[producer]\npoll = []\n").producer.polls, IsEmpty());
}

TEST_F(SettingsTest, FindsEveryProblemInOnePassInTheOrderOfTheLines) {
    EXPECT_EQ(
        problems("data_dir = \"\"\n"
                 "[edge]\n"
                 "port = 70000\n"
                 "clients_max = \"many\"\n"
                 "[broker]\n"
                 "fed = \"tcp://127.0.0.1:1\"\n"
                 "retain_values = 5\n"),
        "x.toml:1: data_dir: may not be empty\n"
        "x.toml:3: edge.port: 70000 is out of range; allowed are 0 to 65535\n"
        "x.toml:4: edge.clients_max: must be a whole number, not a text\n"
        "x.toml:6: broker.fed: unknown key; did you mean broker.feed?\n"
        "x.toml:7: broker.retain_values: must be a duration in quotes, as \"5s\", not a whole "
        "number");
}

TEST_F(SettingsTest, SuggestsSectionsAndKeysOfRowsToo) {
    EXPECT_THAT(problems("[brokr]\nfeed = \"x\"\n"), HasSubstr("did you mean broker?"));
    EXPECT_THAT(problems("[[producer.poll]]\nmethd = \"x\"\n"),
                HasSubstr("did you mean producer.poll.method?"));
    EXPECT_THAT(problems("[edge]\nqwertyuiop = 1\n"), Not(HasSubstr("did you mean")));
}

TEST_F(SettingsTest, TextThatIsNotTomlNamesItsLine) {
    EXPECT_THAT(problems("[edge]\nport = \n"), HasSubstr("x.toml:2: "));
}

TEST_F(SettingsTest, WrongTypesAreRefusedEvenWhereTheyCouldBeConverted) {
    EXPECT_THAT(problems("[edge]\nport = 1.0\n"), HasSubstr("not a fraction"));
    EXPECT_THAT(problems("[auth]\nallow_anonymous_lan = 1\n"), HasSubstr("true or false"));
    EXPECT_THAT(problems("edge = 1\n"), HasSubstr("a section, as [edge]"));
    EXPECT_THAT(problems("[producer]\npoll = 1\n"), HasSubstr("[[producer.poll]]"));
    EXPECT_THAT(problems("[edge]\ntopics = [1]\n"), HasSubstr("each item must be a text"));
    EXPECT_THAT(problems("[edge]\nport = -1\n"), HasSubstr("-1 is out of range"));
}

TEST_F(SettingsTest, APollsRulesNameItsLine) {
    const std::string row = "[[producer.poll]]\nmethod = \"a\"\ntopic = \"t\"\n";
    EXPECT_THAT(problems(row + "deadline = \"9s\"\n"),
                HasSubstr("x.toml:4: producer.poll.deadline: 9s is more than interval + 1s = 6s"));
    EXPECT_THAT(problems(row + row), HasSubstr("'a' is the name of an earlier poll"));
    EXPECT_THAT(problems(row + "name = \"engine\"\n"), HasSubstr("the transport's breaker"));
    EXPECT_THAT(problems(row + "[[producer.poll]]\nmethod = \"b\"\ntopic = \"t\"\n"),
                HasSubstr("'t' is fed by poll a already"));
    EXPECT_THAT(problems(row + "mapper = \"none\"\n"), HasSubstr("'none' is none of as_is"));
    EXPECT_THAT(problems(row + "params = \"[1]\"\n"), HasSubstr("is not a JSON object"));
    EXPECT_THAT(problems(row + "params = \"{\"\n"), HasSubstr("is not a JSON object"));
    EXPECT_THAT(problems(row + "name = \"A b\"\n"), HasSubstr("'A b' is not a name"));
    EXPECT_THAT(problems("[[producer.poll]]\ntopic = \"t\"\n"),
                HasSubstr("producer.poll.method: is missing"));
}

TEST_F(SettingsTest, ADeadlineOfIntervalPlusOneSecondIsAllowed) {
    const std::string row = "[[producer.poll]]\nmethod = \"a\"\ntopic = \"t\"\ninterval = \"2s\"\n";
    EXPECT_EQ(good(row + "deadline = \"3s\"\n").producer.polls[0].deadline, Millis(3000));
    EXPECT_THAT(problems(row + "deadline = \"3001ms\"\n"), HasSubstr("deadline"));
}

TEST_F(SettingsTest, AHostThatIsNotLoopbackNeedsAnExplicitWord) {
    EXPECT_THAT(problems("[edge]\nhost = \"0.0.0.0\"\n"),
                HasSubstr("x.toml:2: edge.host: '0.0.0.0' is open to the network"));
    good("[edge]\nhost = \"0.0.0.0\"\n[auth]\nrequired = true\n");
    EXPECT_THAT(notes_, IsEmpty());
    good("[edge]\nhost = \"0.0.0.0\"\n[auth]\nallow_anonymous_lan = true\n");
    EXPECT_THAT(notes_, ElementsAre(HasSubstr("open to anyone")));
    for (const char* host : {"127.0.0.2", "::1", "[::1]", "localhost"}) {
        good("[edge]\nhost = \"" + std::string(host) + "\"\n");
    }
    for (const char* host : {"127.0.0.1.example", "::", "127.evil", "192.168.1.2", "nas"}) {
        problems("[edge]\nhost = \"" + std::string(host) + "\"\n");
    }
}

TEST_F(SettingsTest, TheEngineNeverLeavesTheMachineAndTheBusOnlyWithKeys) {
    EXPECT_THAT(problems("[engine]\nhost = \"0.0.0.0\"\n"), HasSubstr("no authentication"));
    EXPECT_THAT(problems("[engine]\ncompress_folders = [\"/a\", \"media\"]\n"),
                HasSubstr("'media' is not an absolute path"));
    const std::string keys =
        "[curve]\nedge_key_file = \"/k\"\nbroker_public_key = \"" + kKey + "\"\n";
    for (const char* endpoint : {"tcp://0.0.0.0:12070", "tcp://nas:12070", "tcp://[::]:12070",
                                 "tcp://nas-1.lan:12070", "tcp://[fe80::1%eth0]:12070"}) {
        const std::string text = "[broker]\nfeed = \"" + std::string(endpoint) + "\"\n";
        EXPECT_THAT(problems(text), HasSubstr("x.toml:2: broker.feed: '" + std::string(endpoint) +
                                              "' is open to the network"));
        EXPECT_EQ(good(text + keys).broker.feed, endpoint);
    }
    for (const char* endpoint :
         {"tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1", "ipc:///run/x"}) {
        good("[broker]\nfeed = \"" + std::string(endpoint) + "\"\n");
    }
    for (const char* endpoint :
         {"udp://127.0.0.1:1", "tcp://127.0.0.1", "ipc://", "x", "tcp://*:12070", "tcp://::1:12070",
          "tcp://[nas]:12070", "tcp://a b:12070", "tcp://a;b:12070"}) {
        EXPECT_THAT(problems("[broker]\nfeed = \"" + std::string(endpoint) + "\"\n" + keys),
                    HasSubstr("x.toml:2: broker.feed: "));
    }
    EXPECT_THAT(problems("[broker]\nfeed = \"ipc://" + std::string(101, 'x') + "\"\n"),
                HasSubstr("shorter run folder"));
}

/// What of [curve] is there by half is refused, by the name of a key.
class CurveSettingsTest : public SettingsTest {
 protected:
    static std::string client(const std::string& key, const std::string& name = "edge-1",
                              const std::string& may = "\"read\"") {
        return "[[curve.client]]\nname = \"" + name + "\"\npublic_keys = [\"" + key +
               "\"]\nmay = [" + may + "]\n";
    }
    std::string refused(const std::string& curve) { return problems("[curve]\n" + curve); }

    const std::string broker_ = "broker_key_file = \"/b\"\n";
    const std::string server_ = "broker_public_key = \"" + kKey + "\"\n";
    const std::string edge_ = "edge_key_file = \"/e\"\n";
};

TEST_F(CurveSettingsTest, IsReadWithItsClients) {
    const Settings s = good("[curve]\n" + broker_ + server_ + edge_ + client(kKey) +
                            "[[curve.client]]\nname = \"nas\"\npublic_keys = [\"" + kOtherKey +
                            "\"]\nmay = [\"publish\", \"read\"]\norigins = [\"nas\"]\n");
    EXPECT_TRUE(s.curve.used());
    EXPECT_EQ(s.curve.broker_key_file, "/b");
    EXPECT_EQ(s.curve.broker_public_key, kKey);
    ASSERT_EQ(s.curve.clients.size(), 2u);
    EXPECT_THAT(s.curve.clients[0].public_keys, ElementsAre(kKey));
    EXPECT_THAT(s.curve.clients[1].may, ElementsAre("publish", "read"));
    EXPECT_THAT(s.curve.clients[1].origins, ElementsAre("nas"));
    EXPECT_FALSE(good("").curve.used());
}

TEST_F(CurveSettingsTest, AHalfIsRefused) {
    EXPECT_THAT(refused(broker_),
                HasSubstr("x.toml:2: curve.broker_key_file: no [[curve.client]]"));
    EXPECT_THAT(refused(client(kKey)), HasSubstr("curve.client: whom the broker lets in"));
    EXPECT_THAT(refused(edge_), HasSubstr("x.toml:2: curve.edge_key_file: has no effect without "
                                          "curve.broker_public_key"));
    EXPECT_THAT(refused("producer_key_file = \"/p\"\n"), HasSubstr("curve.producer_key_file: "));
    EXPECT_THAT(refused("publish_key_file = \"/p\"\n"), HasSubstr("curve.publish_key_file: "));
    EXPECT_THAT(refused(server_),
                HasSubstr("x.toml:2: curve.broker_public_key: there is no secret key"));
}

TEST_F(CurveSettingsTest, WhatIsNoPublicKeyIsRefusedAndNotRepeated) {
    const std::string bad(40, ';');  // Not of Z85.
    EXPECT_THAT(refused("broker_public_key = \"" + bad + "\"\n" + edge_),
                AllOf(HasSubstr("x.toml:2: curve.broker_public_key: is not a public key"),
                      Not(HasSubstr(bad))));
    for (const std::string& key : {bad, std::string("short"), std::string(40, '#'), kKey + "x"}) {
        EXPECT_THAT(refused(broker_ + client(key)),
                    HasSubstr("x.toml:5: curve.client.public_keys: is not a public key"));
    }
}

TEST_F(CurveSettingsTest, ARowThatSaysTooLittleOrSaysItTwiceIsRefused) {
    EXPECT_THAT(refused(broker_ + "[[curve.client]]\nname = \"a\"\nmay = [\"read\"]\n"),
                HasSubstr("curve.client.public_keys: is missing"));
    EXPECT_THAT(
        refused(broker_ + "[[curve.client]]\nname = \"a\"\npublic_keys = [\"" + kKey + "\"]\n"),
        HasSubstr("curve.client.may: is missing"));
    EXPECT_THAT(refused(broker_ + client(kKey, "a", "\"write\"")),
                HasSubstr("'write' is none of publish, read"));
    EXPECT_THAT(refused(broker_ + client(kKey) + client(kOtherKey)),
                HasSubstr("'edge-1' is the name of an earlier client"));
    EXPECT_THAT(refused(broker_ + client(kKey) + client(kKey, "edge-2")),
                HasSubstr("the key of client edge-1"));
}

TEST_F(SettingsTest, TheEnvironmentOverridesTheFile) {
    environment_ = {{"SIGMAVAULT_RPC_URL", "http://10.0.0.1:5000/api/v1/rpc"},
                    {"SIGMAVAULT_RPC_TIMEOUT", "2s"},
                    {"SIGMAVAULT_HOST", "127.0.0.3"},
                    {"SIGMAVAULT_PORT", "13000"},
                    {"SIGMAVAULT_DATA_DIR", "/d"},
                    {"SIGMAVAULT_CORS_ORIGINS", "http://a.example, http://b.example"},
                    {"SIGMAVAULT_JWT_SECRET", "secret"},
                    {"SIGMAVAULT_WS_PING_INTERVAL", "7s"},
                    {"SIGMAVAULT_WS_PONG_TIMEOUT", "8s"}};
    const Settings s = good("data_dir = \"/other\"\n[edge]\nport = 1\n");
    EXPECT_EQ(s.producer.engine_url, "http://10.0.0.1:5000/api/v1");
    EXPECT_EQ(s.edge.host, "127.0.0.3");
    EXPECT_EQ(s.edge.port, 13'000);
    EXPECT_EQ(s.data_dir, "/d");
    EXPECT_THAT(s.edge.cors_origins, ElementsAre("http://a.example", "http://b.example"));
    EXPECT_EQ(s.auth.secret, "secret");
    EXPECT_FALSE(s.auth.required);
    EXPECT_EQ(s.edge.ping_interval, Millis(7000));
    EXPECT_EQ(s.edge.pong_timeout, Millis(8000));
    for (const PollSettings& poll : s.producer.polls) {
        EXPECT_EQ(poll.deadline, Millis(2000));
    }
    EXPECT_THAT(notes_, IsEmpty());
}

TEST_F(SettingsTest, ATimeoutOfTheEnvironmentIsCutToEachIntervalWithANote) {
    environment_ = {{"SIGMAVAULT_RPC_TIMEOUT", "30s"}};
    const Settings s = good(
        "[[producer.poll]]\nmethod = \"a\"\ntopic = \"t\"\ninterval = \"2s\"\n"
        "[[producer.poll]]\nmethod = \"b\"\ntopic = \"u\"\ninterval = \"1m\"\n");
    EXPECT_EQ(s.producer.polls[0].deadline, Millis(3000));
    EXPECT_EQ(s.producer.polls[1].deadline, Millis(30'000));
    EXPECT_THAT(notes_, ElementsAre(HasSubstr("30s is cut to 3s for poll a")));
}

TEST_F(SettingsTest, ABadValueNamesItsVariable) {
    environment_ = {{"SIGMAVAULT_PORT", "12x"},
                    {"SIGMAVAULT_RPC_TIMEOUT", "fast"},
                    {"SIGMAVAULT_RPC_URL", "ftp://x"},
                    {"SIGMAVAULT_WS_PING_INTERVAL", "3"}};
    const std::string text = problems("");
    EXPECT_THAT(text, HasSubstr("environment: SIGMAVAULT_PORT: '12x' is not a whole number"));
    EXPECT_THAT(text, HasSubstr("environment: SIGMAVAULT_RPC_TIMEOUT: 'fast' is not a duration"));
    EXPECT_THAT(text, HasSubstr("environment: SIGMAVAULT_RPC_URL: 'ftp://x' is not a URL"));
    EXPECT_THAT(text, HasSubstr("environment: SIGMAVAULT_WS_PING_INTERVAL"));
}

TEST_F(SettingsTest, AnEmptyVariableIsNotSet) {
    environment_ = {{"SIGMAVAULT_PORT", ""}, {"SIGMAVAULT_HOST", ""}};
    EXPECT_EQ(good("").edge.port, 12080);
}

TEST_F(SettingsTest, AHostFromTheEnvironmentIsHeldToTheSameRule) {
    environment_ = {{"SIGMAVAULT_HOST", "0.0.0.0"}};
    EXPECT_THAT(problems(""), HasSubstr("open to the network"));
}

TEST_F(SettingsTest, TheCommandLineHasTheLastWordAndIsCheckedToo) {
    std::vector<std::string> notes;
    const auto none = [](const char*) -> const char* { return nullptr; };
    EXPECT_FALSE(parse_settings("", "x", none, notes, [](Settings& s) {
                     s.edge.host = "0.0.0.0";
                 }).has_value());
    EXPECT_TRUE(parse_settings("[edge]\nhost = \"0.0.0.0\"\n", "x", none, notes, [](Settings& s) {
                    s.edge.host = "127.0.0.1";
                }).has_value());
}

TEST_F(SettingsTest, AFileThatIsNotThereIsSaidSo) {
    std::vector<std::string> notes;
    const auto loaded = load_settings("/nowhere/x.toml", nullptr, notes);
    ASSERT_FALSE(loaded.has_value());
    EXPECT_EQ(loaded.error().message, "/nowhere/x.toml: cannot be read: No such file or directory");
}

TEST_F(SettingsTest, ReadsAFileFromDisk) {
    std::string path = testing::TempDir() + "settingsXXXXXX";
    ASSERT_GE(::mkstemp(path.data()), 0);
    std::ofstream(path) << "[edge]\nport = 99\n";
    std::vector<std::string> notes;
    const auto loaded = load_settings(path, nullptr, notes);
    std::remove(path.c_str());
    ASSERT_TRUE(loaded.has_value());
    EXPECT_EQ(loaded->edge.port, 99);
}

TEST(EngineBase, LosesSlashesAndRpc) {
    EXPECT_EQ(engine_base("http://h:5000/api/v1"), "http://h:5000/api/v1");
    EXPECT_EQ(engine_base("http://h:5000/api/v1/"), "http://h:5000/api/v1");
    EXPECT_EQ(engine_base("http://h:5000/api/v1/rpc"), "http://h:5000/api/v1");
    EXPECT_EQ(engine_base("http://h:5000/api/v1/rpc/"), "http://h:5000/api/v1");
    EXPECT_EQ(engine_base("http://h:5000/api/xrpc"), "http://h:5000/api/xrpc");
}

}  // namespace
}  // namespace sigmacast
