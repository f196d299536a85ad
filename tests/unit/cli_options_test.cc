#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "ops/cli/event_line.h"
#include "ops/cli/instance.h"
#include "ops/cli/options.h"
#include "temp_folder.h"

namespace sigmacast::cli {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

Parsed parse(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "sigmacast");
    return parse_command_line(static_cast<int>(arguments.size()), arguments.data());
}

template <class Command>
Command command(std::vector<const char*> arguments) {
    const Parsed parsed = parse(std::move(arguments));
    EXPECT_FALSE(parsed.exit_code) << parsed.text;
    return std::get<Command>(parsed.command);
}

TEST(CliOptions, TailWithoutArgumentsFollowsEverythingOnTheFirstEdge) {
    const auto tail = command<TailCommand>({"tail"});
    EXPECT_EQ("ws://127.0.0.1:12080/ws", tail.url);
    EXPECT_EQ((std::vector<std::string>{"*"}), tail.topics);
    EXPECT_FALSE(tail.count || tail.duration || tail.json);
}

TEST(CliOptions, TailTakesAnAddressBeforeTheTopics) {
    const auto tail = command<TailCommand>({"tail", "nas:12081", "system.status", "rpc_error"});
    EXPECT_EQ("ws://nas:12081/ws", tail.url);
    EXPECT_EQ((std::vector<std::string>{"system.status", "rpc_error"}), tail.topics);
}

TEST(CliOptions, TailTakesTopicsWithoutAnAddress) {
    const auto tail = command<TailCommand>({"tail", "system.status"});
    EXPECT_EQ("ws://127.0.0.1:12080/ws", tail.url);
    EXPECT_EQ((std::vector<std::string>{"system.status"}), tail.topics);
}

TEST(CliOptions, ATopicIsNoHostAndAHostIsNoTopic) {
    for (const char* address : {"http://nas:12081", "nas:12081", "10.0.0.2", "localhost", "nas/"}) {
        EXPECT_TRUE(command<StateCommand>({"state", address, "agent.status"}).named) << address;
        EXPECT_TRUE(command<TailCommand>({"tail", address, "agent.status"}).named) << address;
    }
    for (const char* topic : {"agent.status", "storage.update", "my_topic", "note", "*"}) {
        const auto state = command<StateCommand>({"state", topic, "note"});
        EXPECT_FALSE(state.named);
        EXPECT_EQ("http://127.0.0.1:12080", state.url);
        EXPECT_EQ((std::vector<std::string>{topic, "note"}), state.topics);
        EXPECT_FALSE(command<TailCommand>({"tail", topic}).named) << topic;
    }
}

TEST(CliOptions, WhatSaysTwiceWhereToLookIsRefused) {
    EXPECT_THAT(parse({"state", "--data", "d", "nas:1"}).text, HasSubstr("give one of them"));
    EXPECT_THAT(parse({"tail", "--data", "d", "nas:1"}).text, HasSubstr("give one of them"));
    EXPECT_THAT(parse({"status", "--data", "d", "--config", "f"}).text,
                HasSubstr("give one of them"));
    EXPECT_EQ("d", command<TailCommand>({"tail", "--data", "d", "note"}).data);
}

class InstanceNotes : public testing::Test {
 protected:
    void notes(const std::string& folder, bool runs) {
        const auto supervisor = std::filesystem::path(temp_.file(folder)) / "supervisor";
        std::filesystem::create_directories(supervisor / "edges");
        std::ofstream(supervisor / "instance")
            << "edge_port=13080\nproducer_admin=13091\nbroker_admin=13092\nedge_host=0.0.0.0\n"
               "edge_port=12080\n";
        for (const char* edge : {"edge-13082.conf", "edge-13080.conf", "edge-13081.conf", "old"}) {
            std::ofstream(supervisor / "edges" / edge) << "";
        }
        if (runs) {
            std::filesystem::create_symlink("/nonexistent", temp_.file(folder + "/run"));
        }
    }
    std::string at(const std::string& folder) { return temp_.file(folder); }
    TempFolder temp_;
};

TEST_F(InstanceNotes, NameEachPortOfWhatWasStarted) {
    notes("data", true);
    const auto found = instance_of(at("data"), nullptr, "");
    ASSERT_TRUE(found && *found);
    EXPECT_EQ((std::vector<std::uint16_t>{13080, 13081, 13082}), (*found)->edges);
    EXPECT_EQ(13091, (*found)->producer_admin);
    EXPECT_EQ(13092, (*found)->broker_admin);
    EXPECT_EQ("127.0.0.1:13081", edge_authority((*found)->edge_host, 13081));
    EXPECT_TRUE((*found)->runs);
}

TEST_F(InstanceNotes, AreFoundFromTheEnvironmentOrTheProgramsOwnPlaceTheRunningOneFirst) {
    const std::string program = at("project/build/release/bin/sigmacast");
    EXPECT_FALSE(instance_of("", at("none").c_str(), program).value());
    notes("elsewhere", false);
    EXPECT_EQ(at("elsewhere"),
              instance_of("", at("elsewhere").c_str(), program).value().value().folder);
    notes("project/data", true);
    EXPECT_EQ(at("project/data"),
              instance_of("", at("elsewhere").c_str(), program).value().value().folder);
    notes("own", true);
    EXPECT_EQ(at("own"), instance_of("", nullptr, at("own/bin/sigmacast")).value().value().folder);
}

TEST_F(InstanceNotes, ThatAreMissingOrBrokenAreSaid) {
    EXPECT_THAT(instance_of(at("none"), nullptr, "").error().message,
                AllOf(HasSubstr("--data"), HasSubstr(at("none"))));
    notes("data", true);
    std::ofstream(temp_.file("data/supervisor/instance")) << "edge_port=many\n";
    EXPECT_THAT(instance_of(at("data"), nullptr, "").error().message, HasSubstr("--config"));
}

TEST(CliOptions, TailReadsItsEnds) {
    const auto tail = command<TailCommand>({"tail", "--count", "3", "--for", "1m30s", "--json"});
    EXPECT_EQ(3U, tail.count);
    EXPECT_EQ(Millis(90'000), tail.duration);
    EXPECT_TRUE(tail.json);
}

TEST(CliOptions, AnAddressOfTheEdgesPageIsUnderstoodByTail) {
    EXPECT_EQ("ws://10.0.0.2:12080/ws",
              command<TailCommand>({"tail", "http://10.0.0.2:12080/"}).url);
}

TEST(CliOptions, CompressAsksTheEngineOfThisMachineUnlessTold) {
    const auto here = command<CompressCommand>({"compress", "x"});
    EXPECT_EQ("x", here.file);
    EXPECT_EQ("127.0.0.1:5000/api/v1", here.engine.authority() + here.engine.path);
    const auto there =
        command<CompressCommand>({"compress", "x", "--engine", "http://nas", "--priority", "high"});
    EXPECT_EQ("nas:5000/api/v1", there.engine.authority() + there.engine.path);
    EXPECT_EQ("high", there.priority);
    EXPECT_EQ(kExitUsage, parse({"compress"}).exit_code);
    EXPECT_EQ(kExitUsage, parse({"compress", ""}).exit_code);
    EXPECT_TRUE(command<CompressCommand>({"compress", "x", "--engine", "https://nas"}).engine.tls);
    EXPECT_EQ(kExitUsage, parse({"compress", "x", "--priority", "asap"}).exit_code);
}

TEST(CliOptions, AnIpv6AddressKeepsItsBrackets) {
    const auto endpoint = parse_endpoint("ws://[::1]:7/ws", "ws", "/ws");
    ASSERT_TRUE(endpoint);
    EXPECT_EQ("::1", endpoint->host);
    EXPECT_EQ("[::1]:7", endpoint->authority());
}

TEST(CliOptions, HttpsAndWssAreTlsAndTheOptionsSayWhomToBelieve) {
    EXPECT_FALSE(parse_endpoint("ws://nas", "ws", "/ws")->tls);
    EXPECT_FALSE(parse_endpoint("nas", "ws", "/ws")->tls);
    for (const char* url : {"wss://nas:7", "https://nas:7"}) {
        const auto tail = command<TailCommand>({"tail", url, "--ca", "ca.pem"});
        EXPECT_TRUE(tail.server.tls);
        EXPECT_EQ("wss://nas:7/ws", tail.url);
        EXPECT_EQ("ca.pem", tail.trust.ca_file);
        EXPECT_FALSE(tail.trust.insecure);
        const auto state = command<StateCommand>({"state", url, "--pin", "edge.pem"});
        EXPECT_TRUE(state.server.tls);
        EXPECT_EQ("https://nas:7", state.url);
        EXPECT_EQ("edge.pem", state.trust.pin_file);
    }
    EXPECT_TRUE(command<StateCommand>({"state", "https://nas", "--insecure"}).trust.insecure);
    EXPECT_EQ(kExitUsage, parse({"state", "https://nas", "--insecure", "--ca", "x"}).exit_code);
    EXPECT_EQ(kExitUsage, parse({"tail", "https://nas", "--pin", "x", "--ca", "x"}).exit_code);
}

TEST(CliOptions, BadAddressesAreRefusedByName) {
    for (const char* url : {"ftp://host", "ws://", "ws://host:0", "ws://host:70000", "ws://host:x",
                            "ws://[::1", "wssp://host", "s://host", "ws://user@host"}) {
        const auto endpoint = parse_endpoint(url, "ws", "/ws");
        ASSERT_FALSE(endpoint) << url;
        EXPECT_NE(std::string::npos, endpoint.error().message.find(url))
            << endpoint.error().message;
    }
}

TEST(CliOptions, MistakesEndWithTheUsageCodeAndASentence) {
    for (const auto& arguments :
         std::vector<std::vector<const char*>>{{},
                                               {"tial"},
                                               {"tail", "--count", "0"},
                                               {"tail", "--for", "soon"},
                                               {"log"},
                                               {"log", "x.db", "--since", "yesterday"},
                                               {"log", "x.db", "--from", "5", "--to", "4"},
                                               {"publish", "--kind", "thing"},
                                               {"publish", "--timeout", "0s"},
                                               {"status", "--edges", "0"}}) {
        const Parsed parsed = parse(arguments);
        EXPECT_EQ(kExitUsage, parsed.exit_code);
        EXPECT_TRUE(parsed.text.starts_with("sigmacast: ")) << parsed.text;
        EXPECT_TRUE(parsed.text.ends_with("\n"));
    }
}

TEST(CliOptions, AMistypedSubcommandIsNamed) {
    EXPECT_EQ("sigmacast: there is no 'tial' (see --help)\n", parse({"tial"}).text);
}

TEST(CliOptions, HelpAndVersionEndWellEverywhere) {
    for (const char* sub : {"tail", "state", "status", "log", "publish"}) {
        const Parsed help = parse({sub, "--help"});
        EXPECT_EQ(kExitOk, help.exit_code) << sub;
        EXPECT_NE(std::string::npos, help.text.find(sub)) << help.text;
        EXPECT_EQ(kExitOk, parse({sub, "--version"}).exit_code) << sub;
    }
    EXPECT_EQ("sigmacast " SIGMACAST_VERSION "\n", parse({"--version"}).text);
}

TEST(CliOptions, AMomentIsATimeOrADurationAgo) {
    const Wall now = parse_rfc3339("2026-11-20T12:00:00Z").value();
    EXPECT_EQ(now - Millis(600'000), parse_moment("10m", now).value());
    EXPECT_EQ(now - Millis(3'600'000), parse_moment("2026-11-20T11:00:00Z", now).value());
    EXPECT_FALSE(parse_moment("noon", now));
}

TEST(CliOptions, AnEventLineBecomesAnEvent) {
    const auto message =
        parse_event_line(R"({"type":"note","key":"k","data":{"text":"hi"}})", false);
    ASSERT_TRUE(message) << message.error().message;
    EXPECT_EQ(Kind::kEvent, message->kind);
    EXPECT_EQ("note", message->topic);
    EXPECT_EQ("k", message->key);
    EXPECT_EQ(Quality::kLive, message->age.quality);
    ASSERT_TRUE(message->data);
    EXPECT_EQ(std::string("\x81\xA4text\xA2hi"), *message->data);
}

TEST(CliOptions, AnEventLineFollowsTheKindThatWasAskedForUnlessItSaysItsOwn) {
    EXPECT_EQ(Kind::kValue, parse_event_line(R"({"type":"a"})", true)->kind);
    EXPECT_EQ(Kind::kEvent, parse_event_line(R"({"type":"a","kind":"event"})", true)->kind);
    EXPECT_EQ(Kind::kValue, parse_event_line(R"({"type":"a","kind":"state"})", false)->kind);
    EXPECT_TRUE(parse_event_line(R"({"type":"a","kind":"state","final":true})", false)->final);
}

TEST(CliOptions, ABadEventLineIsRefusedWithWhatIsWrong) {
    const std::vector<std::pair<std::string, std::string>> bad{
        {"{", "JSON"},
        {"[]", "object"},
        {R"({"data":{}})", "'type' is missing"},
        {R"({"type":7})", "'type' has to be a string"},
        {R"({"type":"a b"})", "space"},
        {R"({"type":"caf\u00e9"})", "not printable ASCII"},
        {R"({"type":"head"})", "reserved"},
        {R"({"type":"authenticated"})", "reserved"},
        {R"({"type":"*"})", "reserved"},
        {R"({"type":"poll.x"})", "reserved"},
        {R"({"type":"a","key":1})", "'key'"},
        {R"({"type":"a","data":[1]})", "'data' has to be an object"},
        {R"({"type":"a","dta":{}})", "unknown member 'dta'"},
        {R"({"type":"a","kind":"x"})", "'kind'"},
        {R"({"type":"a","final":true})", "'final'"},
        {R"({"type":")" + std::string(200, 'a') + R"("})", "longer than"},
        {R"({"type":"a","key":")" + std::string(2000, 'a') + R"("})", "longer than"}};
    for (const auto& [line, problem] : bad) {
        const auto message = parse_event_line(line, false);
        ASSERT_FALSE(message) << line;
        EXPECT_NE(std::string::npos, message.error().message.find(problem))
            << line << ": " << message.error().message;
    }
}

TEST(Token, IsOfTheFileElseOfTheEnvironmentElseNone) {
    const TempFolder folder;
    const std::string file = folder.file("token");
    std::ofstream(file) << "aa.bb.c-_\r\n";
    EXPECT_EQ(*read_token(file, "x.y.z"), "aa.bb.c-_");
    EXPECT_EQ(*read_token("", "x.y.z"), "x.y.z");
    EXPECT_EQ(*read_token("", nullptr), "");
    EXPECT_EQ(*read_token("", ""), "");
}

TEST(Token, WhatCannotBeOneIsRefusedAndNotRepeated) {
    const TempFolder folder;
    const std::string file = folder.file("token");
    EXPECT_THAT(read_token(file, nullptr).error().message, HasSubstr(file + " cannot be read"));
    for (const std::string& bad : {std::string(), std::string("zz\r\nX-More: 1"),
                                   std::string("a zz"), std::string(9'000, 'z')}) {
        std::ofstream(file, std::ios::trunc) << bad;
        const auto token = read_token(file, nullptr);
        ASSERT_FALSE(token.has_value());
        EXPECT_THAT(token.error().message, AllOf(HasSubstr(file), Not(HasSubstr("zz"))));
    }
    EXPECT_THAT(read_token("", "a b").error().message, HasSubstr("SIGMACAST_TOKEN"));
}

TEST(Token, OfAnAddressIsNotShown) {
    std::vector<const char*> line{"sigmacast", "tail", "ws://127.0.0.1:1/ws?token=a.b.c"};
    const Parsed parsed = parse_command_line(static_cast<int>(line.size()), line.data());
    const auto* tail = std::get_if<TailCommand>(&parsed.command);
    ASSERT_TRUE(tail);
    EXPECT_EQ(tail->server.path, "/ws?token=a.b.c");
    EXPECT_EQ(tail->url, "ws://127.0.0.1:1/ws");
}

}  // namespace
}  // namespace sigmacast::cli
