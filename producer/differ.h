// Remembers what was last sent of each (topic, key), so that an answer that says nothing new is not
// sent again. Pure.
//
// Members named `timestamp` do not count, at any depth: they tell when a value was made
// (common/DECISIONS.md, 8). Holds one value for each live key: forget() what has ended.
#pragma once

#include <boost/json/object.hpp>
#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace sigmacast::producer {

/// Whether two values say the same. `ignore` names members of the outermost object that do not
/// count either.
bool same_value(const boost::json::object& a, const boost::json::object& b,
                const std::vector<std::string>& ignore);

class Differ {
 public:
    /// True where `data` says something new; it is then the last sent value.
    bool update(const std::string& topic, const std::string& key, const boost::json::object& data,
                const std::vector<std::string>& ignore);
    /// What was last sent, or nullptr. Valid until the next call.
    [[nodiscard]] const boost::json::object* last(const std::string& topic,
                                                  const std::string& key) const;
    void forget(const std::string& topic, const std::string& key);
    [[nodiscard]] std::size_t size() const { return sent_.size(); }

 private:
    std::map<std::pair<std::string, std::string>, boost::json::object> sent_;
};

}  // namespace sigmacast::producer
