// what() of the error of the given class that `action` throws; a test failure when it does not.
#pragma once

#include <gtest/gtest.h>

#include <exception>
#include <string>

namespace locus::test {

template <class ErrorClass, class Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const ErrorClass& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "an error of another class: " << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return "";
}

}  // namespace locus::test
