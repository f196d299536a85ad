// The configuration file, with a secret in the environment.
//
// Input: TOML. Either it is refused, and each line of the message says where; or what comes of it
// keeps the rules that the programs rely on.
#include "common/settings.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "tests/fuzz/fuzz.h"

namespace sigmacast {
namespace {

using fuzz::require;

constexpr const char* kName = "fuzz.toml";
constexpr const char* kSecret = "correct-horse-battery-staple-0123456789";

const char* environment(const char* name) {
    return std::string_view(name) == "SIGMAVAULT_JWT_SECRET" ? kSecret : nullptr;
}

/// "fuzz.toml:12: ..." with a line that the file has; the file as a whole has none.
bool says_where(std::string_view message, std::size_t lines) {
    if (!message.starts_with(kName)) {
        return false;
    }
    message.remove_prefix(std::string_view(kName).size());
    if (message.starts_with(": ")) {
        return true;
    }
    std::size_t line = 0;
    const auto number = std::from_chars(message.data() + 1, message.data() + message.size(), line);
    return message.starts_with(':') && number.ec == std::errc() && *number.ptr == ':' &&
           line >= 1 && line <= lines;
}

/// Of a key's name the refusal may show all: the secret is only kept out of it as the setting's
/// value.
bool secret_is_a_value(std::string_view text) {
    for (std::size_t at = text.find(kSecret); at != text.npos; at = text.find(kSecret, at + 1)) {
        if (!text.substr(0, at).ends_with("secret = \"")) {
            return false;
        }
    }
    return true;
}

void check_refusal(const Error& error, std::string_view text) {
    const auto lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
    require(error.message.find(kSecret) == std::string::npos || !secret_is_a_value(text),
            "no secret is shown", error.message);
    for (const std::string& line : fuzz::split(error.message, "\n")) {
        require(says_where(line, lines) || line.starts_with("environment: ") ||
                    (line.starts_with("and ") && line.ends_with(" more")),
                "each problem says where it is", line);
    }
}

bool is_local(std::string_view host) {
    return host == "localhost" || host == "::1" || host == "[::1]" || host.starts_with("127.");
}

void check_settings(const Settings& settings) {
    std::set<std::string> names{"engine"};
    for (const PollSettings& poll : settings.producer.polls) {
        require(names.insert(poll.name).second, "each poll has a name of its own", poll.name);
        require(!poll.method.empty() && !poll.topic.empty() && !poll.error_code.empty(),
                "a poll is whole", poll.name);
        require(poll.interval.count() > 0 && poll.deadline.count() > 0 &&
                    poll.deadline <= poll.interval + Millis{1000},
                "P4: a deadline is at most the interval and a second", poll.name);
    }
    require(
        settings.auth.required || settings.auth.allow_anonymous_lan || is_local(settings.edge.host),
        "P10: who is not asked for a token is on this machine", settings.edge.host);
    require(is_local(settings.engine.host), "P10: the engine is for this machine",
            settings.engine.host);
    require(settings.auth.secret == kSecret, "the environment has the last word");
    std::set<std::string> roles;
    for (const RoleSettings& role : settings.auth.roles) {
        require(roles.insert(role.name).second && !role.topics.empty(), "a role is whole",
                role.name);
    }
}

}  // namespace
}  // namespace sigmacast

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace sigmacast;
    const std::string_view text = fuzz::Input(data, size).rest();
    std::vector<std::string> notes;
    const auto settings = parse_settings(text, kName, environment, notes);
    if (!settings) {
        check_refusal(settings.error(), text);
    } else {
        check_settings(*settings);
    }
    for (const std::string& note : notes) {
        fuzz::require(note.find(kSecret) == std::string::npos || !secret_is_a_value(text),
                      "no secret is noted", note);
    }
    return 0;
}
