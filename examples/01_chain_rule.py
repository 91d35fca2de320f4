"""Lesson 1: the chain rule, on one product.

L is the loss: one number, computed by many ops. Each op receives g = dL/dout, the gradient of its
output. g is called the cotangent of the output. Backprop asks one question at each op: which
gradients dL/da and dL/db do its inputs get?

Each op has a function that answers: its vjp (vector-Jacobian product). It multiplies the vector g
by the Jacobian, the matrix of all derivatives dout/da, usually without building this matrix. You
can call a vjp yourself. `backward()` calls the vjps of all ops, from the end to the start. The code
that does this is called the engine.
"""

import numpy as np

from autograd import Tensor, log

print("out = a * b, with a = 2 and b = 5")
# a and b are leaves: no op made them, and we want their gradients.
a, b = Tensor(2.0, requires_grad=True), Tensor(5.0, requires_grad=True)
out = a * b
da, db = out.vjp(1.0)
print(f"  out.vjp(1.0) -> da = {da:g} (that is b), db = {db:g} (that is a)")
da, db = out.vjp(10.0)
print(f"  out.vjp(10.0) -> da = {da:g}, db = {db:g}: a vjp is linear in g\n")

print("L = log(a * b): the chain rule by hand, from the end to the start")
L = log(out)
(dout,) = L.vjp(1.0)  # dL/dout = 1 / out
da, db = out.vjp(dout)  # dL/da = dL/dout * b
print(f"  dL/dout = {dout:.3f}, dL/da = {da:.3f}, dL/db = {db:.3f}")
L.backward()  # the engine makes the same calls
print(f"  L.backward():      a.grad = {a.grad:.3f}, b.grad = {b.grad:.3f}\n")

print("x * x uses one value twice, so the gradient of x is the sum over both uses")
x = Tensor(3.0, requires_grad=True)
square = x * x
first, second = square.vjp(1.0)
square.backward()
print(f"  vjp -> {first:g} and {second:g}; x.grad = {x.grad:g} = {first:g} + {second:g}\n")

print("matrix + row broadcasts the row: every row of the matrix uses it once")
matrix, row = Tensor(np.ones((3, 2)), requires_grad=True), Tensor([1.0, 2.0], requires_grad=True)
g = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
(matrix + row).backward(g)
print(f"  g =\n{g}\n  row.grad = {row.grad}: g summed over the broadcast axis")

print("\nNow you: x + f(x) uses x twice too. npgpt2 practice residual --start residual.py")
