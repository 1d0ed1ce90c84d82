#include "eager_calls.h"

#include <ATen/ExpandUtils.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/util/SmallVector.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/autograd/python_variable.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "registration.h"
#include "rowwise_border.h"

namespace fused_dropout {
namespace {

namespace py = pybind11;

// An argument of a signature: `read` takes an object that is exactly what is expected, and `value` gives it to the
// operation. One that has not been read is None or 0, the default of every schema here.
template <class T>
struct Argument;

template <>
struct Argument<Tensor&> {
  Tensor tensor;
  bool read(PyObject* object) {
    if (!THPVariable_CheckExact(object)) return false;
    tensor = THPVariable_Unpack(object);
    return true;
  }
  Tensor& value() { return tensor; }
};

template <>
struct Argument<const Tensor&> : Argument<Tensor&> {};

template <>
struct Argument<const OptionalTensor&> {
  OptionalTensor tensor;
  bool read(PyObject* object) {
    if (object == Py_None) return true;
    if (!THPVariable_CheckExact(object)) return false;
    tensor = THPVariable_Unpack(object);
    return true;
  }
  const OptionalTensor& value() const { return tensor; }
};

template <>
struct Argument<double> {
  double number = 0;
  bool read(PyObject* object) {
    if (!PyFloat_CheckExact(object)) return false;
    number = PyFloat_AS_DOUBLE(object);
    return true;
  }
  double value() const { return number; }
};

template <>
struct Argument<int64_t> {
  int64_t number = 0;
  bool read(PyObject* object) {
    if (!PyLong_CheckExact(object)) return false;
    int overflow = 0;
    number = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow == 0;
  }
  int64_t value() const { return number; }
};

template <>
struct Argument<c10::SymInt> : Argument<int64_t> {};

template <>
struct Argument<MaskStrides> {
  c10::SmallVector<c10::SymInt, 6> numbers;
  bool given = false;
  bool read(PyObject* object) {
    if (object == Py_None) return true;
    if (!PyList_CheckExact(object)) return false;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(object); ++i) {
      Argument<int64_t> number;
      if (!number.read(PyList_GET_ITEM(object, i))) return false;
      numbers.push_back(number.value());
    }
    given = true;
    return true;
  }
  MaskStrides value() const { return given ? MaskStrides(numbers) : MaskStrides(); }
};

template <>
struct Argument<OptionalGenerator> {
  OptionalGenerator generator;
  bool read(PyObject* object) {
    if (object == Py_None) return true;
    if (Py_TYPE(object) != reinterpret_cast<PyTypeObject*>(THPGeneratorClass)) return false;
    generator = reinterpret_cast<THPGenerator*>(object)->cdata;
    return true;
  }
  const OptionalGenerator& value() const { return generator; }
};

// What Python has made, or else its error as an exception.
PyObject* made(PyObject* object) {
  if (object == nullptr) throw python_error();
  return object;
}

PyObject* wrap(const Tensor& x) { return made(THPVariable_Wrap(x)); }
template <class... X>
PyObject* wrap(const std::tuple<X...>& results) {
  auto wrapped = py::reinterpret_steal<py::object>(made(PyTuple_New(sizeof...(X))));
  Py_ssize_t at = 0;
  std::apply([&](const auto&... x) { (PyTuple_SET_ITEM(wrapped.ptr(), at++, wrap(x)), ...); }, results);
  return wrapped.release().ptr();
}

// A function of Python that is given its arguments as they lie on the stack. `method` outlives it.
using FastCall = PyObject*(PyObject*, PyObject* const*, Py_ssize_t, PyObject*);
py::object new_function(PyMethodDef& method, const char* name, FastCall* call, PyObject* self) {
  method = {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)), METH_FASTCALL | METH_KEYWORDS,
            nullptr};
  return py::reinterpret_steal<py::object>(made(PyCFunction_New(&method, self)));
}

template <class Signature>
class EagerCall;

template <class Result, class... X>
class EagerCall<Result(X...)> {
  using Operation = c10::TypedOperatorHandle<Result(X...)>;
  using Arguments = std::tuple<Argument<X>...>;
  using Read = bool (*)(Arguments&, PyObject*);
  // What a function of Python knows of its operation; it lives as long as the process.
  struct Known {
    Operation operation;
    std::string name;
    PyObject* overload;
    std::vector<PyObject*> names;  // of the arguments, interned
    size_t required = 0;           // the first ones; all others have to be named
    PyMethodDef method{};
  };

 public:
  static py::object function(const std::string& name, const py::object& overload) {
    auto* const known = new Known{find<Result(X...)>(name), name, overload.inc_ref().ptr(), {}};
    for (const c10::Argument& argument : known->operation.schema().arguments()) {
      known->names.push_back(PyUnicode_InternFromString(argument.name().c_str()));
      if (!argument.kwarg_only()) ++known->required;
      const auto& otherwise = argument.default_value();
      TORCH_INTERNAL_ASSERT(!otherwise || otherwise->isNone() || (otherwise->isInt() && otherwise->toInt() == 0));
    }
    const auto self = py::capsule(known);
    return new_function(known->method, known->name.c_str(), &call, self.ptr());
  }

 private:
  template <size_t... I>
  static bool read(const Known& known, PyObject* const* objects, size_t positional, PyObject* keywords,
                   Arguments& arguments, std::index_sequence<I...>) {
    static constexpr Read reads[] = {[](Arguments& all, PyObject* x) { return std::get<I>(all).read(x); }...};
    if (positional != known.required) return false;
    for (size_t i = 0; i < positional; ++i) {
      if (!reads[i](arguments, objects[i])) return false;
    }
    const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
    for (Py_ssize_t k = 0; k < named; ++k) {
      size_t i = known.required;
      while (i < sizeof...(X) && known.names[i] != PyTuple_GET_ITEM(keywords, k)) ++i;
      if (i == sizeof...(X) || !reads[i](arguments, objects[positional + static_cast<size_t>(k)])) return false;
    }
    return true;
  }

  static PyObject* call(PyObject* self, PyObject* const* objects, Py_ssize_t positional, PyObject* keywords) {
    HANDLE_TH_ERRORS
    const auto& known = *static_cast<Known*>(PyCapsule_GetPointer(self, nullptr));
    Arguments arguments;
    if (at::impl::torch_function_mode_enabled() ||
        !read(known, objects, static_cast<size_t>(positional), keywords, arguments, std::index_sequence_for<X...>())) {
      return made(PyObject_Vectorcall(known.overload, objects, static_cast<size_t>(positional), keywords));
    }
    const auto called = [&] {
      const py::gil_scoped_release others_may_run;
      return std::apply([&](auto&... argument) { return known.operation.call(argument.value()...); }, arguments);
    };
    if constexpr (std::is_void_v<Result>) {
      called();
      Py_RETURN_NONE;
    } else {
      return wrap(called());
    }
    END_HANDLE_TH_ERRORS
  }
};

bool has_plain_sizes(const Tensor& x) {
  return !x.is_nested() && !x.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
}

bool agrees(const Tensor& input, const Tensor& other, bool is_bias) {
  if (other.scalar_type() != input.scalar_type() || !has_plain_sizes(other)) return false;
  return is_bias ? at::is_expandable_to(other.sizes(), input.sizes()) : other.sizes() == input.sizes();
}

PyObject* all_agree(PyObject*, PyObject* const* objects, Py_ssize_t positional, PyObject* keywords) {
  HANDLE_TH_ERRORS
  static PyObject* const bias = PyUnicode_InternFromString("bias");
  if (positional != 1 || !THPVariable_CheckExact(objects[0])) Py_RETURN_FALSE;
  const Tensor& input = THPVariable_Unpack(objects[0]);
  if (!has_plain_sizes(input)) Py_RETURN_FALSE;
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t k = 0; k < named; ++k) {
    PyObject* const object = objects[1 + k];
    if (!THPVariable_CheckExact(object)) Py_RETURN_FALSE;
    if (!agrees(input, THPVariable_Unpack(object), PyTuple_GET_ITEM(keywords, k) == bias)) Py_RETURN_FALSE;
  }
  Py_RETURN_TRUE;
  END_HANDLE_TH_ERRORS
}

}  // namespace

py::object agree() {
  static PyMethodDef method;
  return new_function(method, "agree", &all_agree, nullptr);
}

py::dict eager_calls(const py::dict& overloads) {
  py::dict calls;
  const auto add = [&](auto* signature, const std::string& name) {
    const py::str key(name);
    calls[key] = EagerCall<std::remove_pointer_t<decltype(signature)>>::function(name, overloads[key]);
  };
  const auto add_pipeline = [&](auto row) {
    using P = typename decltype(row)::template Pipeline<float>;
    if constexpr (P::kRole == Role::kOperation) {
      using Forms = Signatures<kTensorCount<P>, kReturnsPair<P> ? 2 : 1>;
      const std::string& name = facts<P>().name;
      add(static_cast<typename Forms::Random*>(nullptr), name);
      add(static_cast<typename Forms::Apply*>(nullptr), apply_name<P>());
      if constexpr (P::kInPlace) {
        add(static_cast<typename Forms::RandomInPlace*>(nullptr), name + "_");
        add(static_cast<typename Forms::ApplyInPlace*>(nullptr), apply_name<P>() + "_");
      }
    }
  };
  const auto add_rows = [&](auto operation) {
    using Forms = RowSignatures<decltype(operation)>;
    const std::string name = operation.kName;
    add(static_cast<typename Forms::Random*>(nullptr), name);
    add(static_cast<typename Forms::Apply*>(nullptr), name + "_apply");
  };
  OperationTable::each(add_pipeline);
  add_rows(LayerNormCall());
  add_rows(RmsNormCall());
  add_rows(SoftmaxCall());
  return calls;
}

}  // namespace fused_dropout
