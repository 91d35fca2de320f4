"""Lesson 1: the chain rule, on one product.

Backprop answers one question, op by op: given g = dL/dout, what are dL/da and dL/db?
Each op carries the answer as its vjp (vector-Jacobian product), and you may call it yourself.
"""

import numpy as np

from autograd import Tensor, log

print("out = a * b, with a = 2 and b = 5")
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
L.backward()  # the same walk, made by the engine
print(f"  L.backward():      a.grad = {a.grad:.3f}, b.grad = {b.grad:.3f}\n")

print("x * x: one value used twice, so its gradient is the sum over both uses")
x = Tensor(3.0, requires_grad=True)
square = x * x
first, second = square.vjp(1.0)
square.backward()
print(f"  vjp -> {first:g} and {second:g}; x.grad = {x.grad:g} = {first:g} + {second:g}\n")

print("matrix + row: the row is used once for every row of the matrix")
matrix, row = Tensor(np.ones((3, 2)), requires_grad=True), Tensor([1.0, 2.0], requires_grad=True)
g = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
(matrix + row).backward(g)
print(f"  g =\n{g}\n  row.grad = {row.grad}: g summed over the axis that was broadcast")

print("\nNow you: x + f(x) uses x twice too. npgpt2 practice residual --start residual.py")
