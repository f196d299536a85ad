#include "producer/differ.h"

#include <algorithm>
#include <boost/json.hpp>

namespace sigmacast::producer {
namespace {

namespace json = boost::json;

bool counts(std::string_view name, const std::vector<std::string>& ignore) {
    return name != "timestamp" && std::find(ignore.begin(), ignore.end(), name) == ignore.end();
}

std::size_t size_of(const json::object& object, const std::vector<std::string>& ignore) {
    return static_cast<std::size_t>(std::count_if(
        object.begin(), object.end(),
        [&](const json::key_value_pair& pair) { return counts(pair.key(), ignore); }));
}

bool same(const json::value& a, const json::value& b);

bool same_object(const json::object& a, const json::object& b,
                 const std::vector<std::string>& ignore) {
    if (size_of(a, ignore) != size_of(b, ignore)) {
        return false;
    }
    return std::all_of(a.begin(), a.end(), [&](const json::key_value_pair& pair) {
        if (!counts(pair.key(), ignore)) {
            return true;
        }
        const json::value* other = b.if_contains(pair.key());
        return other != nullptr && same(pair.value(), *other);
    });
}

bool same(const json::value& a, const json::value& b) {
    if (a.is_object() && b.is_object()) {
        return same_object(a.get_object(), b.get_object(), {});
    }
    if (a.is_array() && b.is_array()) {
        return std::equal(a.get_array().begin(), a.get_array().end(), b.get_array().begin(),
                          b.get_array().end(), same);
    }
    return a == b;
}

}  // namespace

bool same_value(const json::object& a, const json::object& b,
                const std::vector<std::string>& ignore) {
    return same_object(a, b, ignore);
}

bool Differ::update(const std::string& topic, const std::string& key, const json::object& data,
                    const std::vector<std::string>& ignore) {
    const auto [it, added] = sent_.try_emplace({topic, key}, data);
    if (added) {
        return true;
    }
    if (same_value(it->second, data, ignore)) {
        return false;
    }
    it->second = data;
    return true;
}

const json::object* Differ::last(const std::string& topic, const std::string& key) const {
    const auto it = sent_.find({topic, key});
    return it == sent_.end() ? nullptr : &it->second;
}

void Differ::forget(const std::string& topic, const std::string& key) {
    sent_.erase({topic, key});
}

}  // namespace sigmacast::producer
